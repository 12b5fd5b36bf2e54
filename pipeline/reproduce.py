"""Rebuilds a registered version from its number, and says whether the weights are the same.

It reads what the version's run kept (commit, uncommitted changes, configuration, data, environment), makes a
temporary worktree of that commit, brings the data there by DVC and trains with that commit's own code::

    python -m pipeline.reproduce petfaces 7            # or: petfaces champion
    python -m pipeline.reproduce petfaces 7 --check    # only whether it could be done

The checkout that it is called from and MLflow's store stay as they are. What the run kept is data and is
checked, but for its uncommitted changes: they are code, are shown, and are applied with ``--trust`` alone.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from pipeline import config, foreign, portable, text, vetting, yaml_files
from pipeline.config import ROOT, UserError
from pipeline.download import DOWNLOADS
from pipeline.model_folder import ModelFolder
from pipeline.provenance import CHANGES
from pipeline.seal import model_hash
from pipeline.text import printable

CHILD = Path(__file__).with_name("rebuild.py")
OUT = "runs/single/rebuilt"  # in the worktree
WEIGHTS = "weights.safetensors"
BESIDE = ("model.json", "metrics.json", "curves.csv")  # compared, too


def facts(lineage: dict, device: str | None) -> dict[str, object]:
    """What decides about a model's weights, in the order in which it is worth looking at."""
    environment = dict(lineage["environment"])
    threads, instructions = environment.pop("threads", None), environment.pop("instructions", None)
    return {
        "code": lineage.get("code"),  # the first versions did not note it
        "data's content": lineage["data"]["content"],
        "data's split": lineage["data"]["split"],
        **environment,
        "threads": threads,
        "device": device,
        "processor's instructions": instructions,
    }


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two sets of facts, in their order; what one of them does not know is none."""
    return [
        f"{name}: {printable(value)} then, {printable(now[name])} now"
        for name, value in then.items()
        if None not in (value, now.get(name)) and value != now[name]
    ]


def apart(then: Path, now: Path) -> str:
    """How far the weights of two train folders are from each other."""
    from models.classifier import read_weights

    one, two = read_weights(then / WEIGHTS), read_weights(now / WEIGHTS)
    shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (one, two)]
    if shapes[0] != shapes[1]:
        return "of another shape"
    most = max(float((one[name].double() - two[name].double()).abs().max()) for name in one)
    return f"at most {most:.3g} apart"


def verdict(then: Path, now: Path, differ: list[str]) -> tuple[bool, list[str]]:
    """Whether two train folders hold the same weights, and what is to be said of it.

    Args:
        then: the version's folder.
        now: the rebuilt one.
        differ: of their facts.
    """
    before, after = (hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() for folder in (then, now))
    if before != after:
        why = f"first difference: {differ[0]}" if differ else "nothing in the lineage differs"
        return False, [
            f"other weights (sha256 {before[:12]} then, {after[:12]} now, {apart(then, now)})",
            why,
        ]
    told = [f"identical weights (sha256 {before[:12]})"]
    hashes = [{name: portable.sums(folder).get(name) for name in BESIDE} for folder in (then, now)]
    if others := [name for name in BESIDE if hashes[0][name] != hashes[1][name]]:
        told.append(f"but not the same bytes in {', '.join(others)}")
    if differ:
        told.append(f"although it is not all the same: {differ[0]}")
    return True, told


def _say(what: str, text: str) -> None:
    print(f"{what + ':':<14}{text}", flush=True)


def _git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    # Hooks are a person's: DVC's, for one, would check out data at once.
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace")


@contextmanager
def worktree(tree: Path, commit: str | None, version) -> Iterator[None]:
    """A worktree of the commit that trained a version, while the context lasts.

    Raises:
        UserError: it can't be made.
    """
    if commit is None:
        raise UserError(
            f"{version} was trained outside a git checkout, or the record of its commit is lost: "
            "nothing tells which code it was"
        )
    short = commit[:8]
    if _git("rev-parse", "--git-dir").returncode:
        raise UserError(f"{ROOT} is no git checkout, and {version} needs commit {short}; use a clone")
    if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise UserError(
            f"this clone does not have commit {short}, which {version} was trained from; "
            "run: git fetch --all, or do it where it was trained"
        )
    try:
        made = _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        if made.returncode:
            raise UserError(f"git makes no worktree of commit {short}: {' '.join(made.stderr.split())}")
        yield
    finally:
        # Not `prune`: it would forget a person's own worktree on a disk that is not mounted now.
        # Forced twice: one that was broken off while it was made is still locked.
        _git("worktree", "remove", "--force", "--force", str(tree))


class Rebuilding:
    """One version, a place to work in, and what has been found out.

    Attributes:
        version: of the registry.
        kept: what its run kept.
        tree: the worktree.
        then: facts that the version notes.
        now: facts that a training here would note; empty until the worktree's code was asked.
        doubt: what a check can't promise.
    """

    def __init__(self, place: Path, version):
        from pipeline.tracking import download_run

        self.place, self.version = place, version
        self.kept, self.tree = place / "kept", place / "petfaces"
        self.trained = ModelFolder.open(download_run(version, self.kept))
        self.settings, self.lineage = self.trained.settings, self.trained.lineage
        self.data, self.commit = self.lineage["data"]["name"], self.trained.provenance.commit
        try:
            self.then, self.now = facts(self.lineage, version.device), {}
        except KeyError as error:
            raise UserError(f"{version}: its lineage.json has no {error}; it can't be rebuilt") from error
        self.doubt = ""

    def bring_code(self, trust: bool, show: bool) -> None:
        """Brings the changes that were not committed into the worktree.

        Args:
            trust: whether a person wants code to run that no commit holds.
            show: whether the changes are printed, not only the files.

        Raises:
            UserError: nobody has kept them, they change more than code, they don't fit, or no person has said
                that they are to be trusted.
        """
        short = self.commit[:8]
        if not self.trained.provenance.dirty:
            why = (
                " (the record is lost; this commit has the same code)"
                if self.trained.provenance.inferred
                else ""
            )
            _say("code", f"commit {short}{why}")
            return
        changes = self.place / CHANGES
        changes.write_bytes(self.trained.provenance.changes or b"")
        if not changes.stat().st_size:
            raise UserError(
                f"{self.version} was trained with uncommitted changes to commit {short}, which nobody kept; "
                "it can't be rebuilt"
            )
        changed = vetting.changes(changes, self.tree)
        _say("code", f"commit {short} with uncommitted changes that the run kept, of {len(changed)} files:")
        for each in changed:
            print(f"  {each}")
        if show:
            for line in changes.read_text(encoding="utf-8", errors="replace").splitlines():
                print(f"  | {printable(line)}")
        if not trust:
            raise UserError(
                f"these changes are code that would run here; read them ({'above' if show else '--check'}) "
                f"and add --trust if you trust who made {self.version}"
            )
        done = _git("apply", "--whitespace=nowarn", str(changes), cwd=self.tree)
        if done.returncode:
            told = printable(" ".join(done.stderr.split()))
            raise UserError(f"the {CHANGES} of {self.version} does not fit commit {short}: {told}")

    def check_settings(self) -> None:
        """Makes sure that the settings are data, before that commit's code is given them."""
        if self.settings["data"]["name"] != self.data:
            raise UserError(f"{self.version}: its lineage and its config.yaml name different data")
        if self.settings["model"].get("start") and not self.lineage.get("start"):
            raise UserError(f"{self.version}: its config.yaml names a start that its lineage does not")
        vetting.settings(self.settings, self.tree, self.version)

    def bring_start(self) -> None:
        """Brings the model that the training starts from; the settings then name its folder."""
        from pipeline import tracking

        wanted = self.lineage.get("start")
        if not wanted:
            return
        named = self.settings["model"]["start"]
        with tracking.reachable():
            # By its hash: an alias may have moved on, and a folder may hold another model by now.
            address = tracking.find_model(wanted)
            if address:
                folder = tracking.download_train(address, self.place / "start")
            else:
                folder = config.from_root(str(named))
        if not (folder / WEIGHTS).is_file() or model_hash(folder) != wanted:
            raise UserError(
                f"the model that {self.version} starts from ({named}, hash {wanted[:12]}) is not registered, "
                "nor is it there any more; it can't be rebuilt"
            )
        self.settings["model"]["start"] = str(folder)
        _say("start", address or str(named))

    def bring_data(self, check: bool) -> None:
        """Brings packed pictures and splits: from DVC's cache, from a remote, or made again.

        Args:
            check: look only; nothing is pulled and nothing made.
        """
        remotes, locks = self._point_dvc(), self._write_params()
        sources = {"checkout": "DVC's cache"}
        if remotes and not check:
            sources["pull"] = "DVC's remote"
        for verb, source in sources.items():
            for lock in locks:
                done = self._dvc(verb, lock)
                if done.returncode == 0:
                    self.ask()
                    if not self._data_differs():
                        _say("data", f"{self.data}, from {source}")
                        return
                elif verb == "pull":  # a remote may be out of reach, or want a driver
                    print(text.without_password(done.stderr.strip()), file=sys.stderr, flush=True)
        if check:
            self._say_where_data_may_be(locks if remotes else [])
            return
        self._use(locks[0] if locks else "")
        print(f"{self.data} is neither in DVC's cache nor on a remote: it is made again", flush=True)
        downloads, own = config.main_checkout() / DOWNLOADS, self.tree / DOWNLOADS
        if downloads.is_dir():
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(downloads)
        # Without a commit: the cache is the main checkout's.
        done = self._run(sys.executable, "-m", "dvc", "repro", "--no-commit", "split")
        if done.returncode:
            raise UserError(f"{self.version} can't be rebuilt: its data can't be made again, as said above")
        self.ask()
        if differ := self._data_differs():
            raise UserError(
                f"{self.version} can't be rebuilt: {differ[0]}; bring the data that it was taught"
            )
        _say("data", f"{self.data}, made again")

    def _say_where_data_may_be(self, locks: list[str]) -> None:
        for lock in locks:
            done = self._dvc("status", lock, "--cloud", "--json")
            # A folder that is nowhere is warned of on stderr, and is not in the answer.
            if done.returncode == 0 and "Missing cache" not in done.stderr:
                states = set(json.loads(done.stdout).values())
                if states and "missing" not in states:
                    _say(
                        "data", f"{self.data}, on DVC's remote; a check pulls nothing, so it was not compared"
                    )
                    return
        differ = self._data_differs()
        found = f" (there is other: {differ[0]})" if differ else ""
        kind = self.settings["data"]["source"].get("kind")
        how = {"drawn": "drawn", "folder": "packed from fetch.path"}.get(kind, "downloaded")
        self.doubt = f"its data must be {how} again"
        _say("data", f"{self.data}, neither in DVC's cache nor on a remote{found}; to be {how} again")

    def _data_differs(self) -> list[str]:
        return [line for line in differences(self.then, self.now) if line.startswith("data's")]

    def _point_dvc(self) -> bool:
        """Gives the worktree the main checkout's cache and remotes; whether there are remotes."""
        from dvc.config import Config

        main = config.main_checkout() / ".dvc"
        # All levels as one, its paths absolute: config.local is not in git, and a remote may be relative.
        merged = Config(str(main)).read()
        merged["cache"].setdefault("dir", str(main / "cache"))
        merged["core"]["site_cache_dir"] = str(self.place / "dvc")  # else a trace stays in /var/tmp
        with Config(str(self.tree / ".dvc")).edit("local") as own:
            own.update(merged)
        return bool(merged["remote"])

    def _write_params(self) -> list[str]:
        """Writes the version's ``params.yaml``; returns what may be its ``dvc.lock``, the likeliest first.

        A run that was written from files afterwards has neither of them: then the commit's, and as the lock
        also today's, for a lock is committed after a training. The data's hashes decide.
        """
        own = self.tree / "params.yaml"
        kept = self.kept / "params.yaml"
        params = foreign.yaml_object(kept if kept.is_file() else own)
        vetting.params(params)
        params["data"] = self.data  # the command line may have chosen it, as it may what follows
        for group in ("pack", "split"):
            known = self.settings[group]
            params[group] = {key: known.get(key, value) for key, value in params.get(group, {}).items()}
        vetting.params(params)
        main = config.main_checkout()
        if "fetch" in params:  # where a person's pictures lie is for this checkout to say
            own_fetch = yaml_files.read(main / "params.yaml").get("fetch") or {}
            path = config.from_root(own_fetch.get("path", "photos"), main)
            params["fetch"] = own_fetch | {"path": str(path)}
        own.write_text(yaml.safe_dump(params), encoding="utf-8")
        locks = [vetting.lock(self.kept / "dvc.lock")] if (self.kept / "dvc.lock").is_file() else []
        places = (self.tree / "dvc.lock", main / "dvc.lock")
        return list(
            dict.fromkeys(
                [*locks, *(place.read_text(encoding="utf-8") for place in places if place.is_file())]
            )
        )

    def _use(self, lock: str) -> None:
        """Writes ``dvc.lock``, and takes away what another one has brought."""
        shutil.rmtree(self.tree / "data" / self.data, ignore_errors=True)
        (self.tree / "dvc.lock").write_text(lock, encoding="utf-8")

    def _dvc(self, verb: str, lock: str, *options: str) -> subprocess.CompletedProcess:
        """Calls DVC for the data that a lock names."""
        self._use(lock)
        targets = (f"data/{self.data}/pack", f"data/{self.data}/split.csv")
        return self._run(sys.executable, "-m", "dvc", verb, *options, *targets, quiet=True)

    def ask(self) -> None:
        """Asks the worktree's code what it would note of a training.

        Raises:
            UserError: the device that the configuration names is not here.
        """
        told = self._child()
        if told["device"] is None:
            trainer, was = self.settings["trainer"], self.version.device
            raise UserError(
                f"{self.version} was trained on another device "
                f"({printable(trainer['accelerator'])} × {printable(trainer['devices'])}"
                f"{f', {was}' if was else ''}), which PyTorch does not see here; do it where there is one"
            )
        self.now = facts(told["lineage"], told["device"])

    def train(self) -> Path:
        """Trains in the worktree; returns the train folder."""
        self._child(OUT)
        return self.tree / OUT

    def _child(self, *out: str) -> dict:
        settings, answer = self.place / "config.yaml", self.place / "answer.json"
        settings.write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
        answer.unlink(missing_ok=True)
        program = self.place / "program" / CHILD.name  # alone: Python puts its folder first on the path
        program.parent.mkdir(exist_ok=True)
        shutil.copyfile(CHILD, program)
        done = self._run(sys.executable, str(program), str(settings), str(answer), *out, quiet=not out)
        told = (
            json.loads(answer.read_text(encoding="utf-8"))
            if answer.is_file()
            else {"error": f"status {done.returncode}"}
        )
        if "error" in told:
            raise UserError(
                f"{self.version}: the code of commit {self.commit[:8]} broke off: {told['error']}"
            )
        return told

    def _run(self, *command: str, quiet: bool = False) -> subprocess.CompletedProcess:
        """Runs a program in the worktree, with its code, this Python and a store of its own."""
        others = ("LOCAL_RANK", "WORLD_SIZE", "DVC_ROOT", "DVC_STAGE", "GIT_DIR", "GIT_WORK_TREE")
        environment = {name: value for name, value in os.environ.items() if name not in others}
        environment |= {
            "PYTHONPATH": f"{self.tree}{os.pathsep}{environment.get('PYTHONPATH', '')}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.place / 'mlflow.db'}",
        }
        pipe = subprocess.PIPE if quiet else None
        process = subprocess.Popen(
            command,
            cwd=self.tree,
            env=environment,
            stdout=pipe,
            stderr=pipe,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            said = process.communicate()
        except BaseException:
            # The whole session: a training may have started further processes, which nobody else would end.
            for end, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, end)
                    process.wait(patience)
            raise
        return subprocess.CompletedProcess(command, process.returncode, *said)


def reproduce(
    name: str, which: str, check: bool = False, keep: Path | None = None, trust: bool = False
) -> bool:
    """Rebuilds a version, or says whether it could be done.

    Args:
        name: of the registry.
        which: a number or an alias.
        check: train nothing.
        keep: where the rebuilt train folder goes; by default nowhere.
        trust: whether uncommitted changes that the run kept may run here.

    Returns:
        Whether the weights are identical; of a check, always True.

    Raises:
        UserError: it can't be done.
    """
    from pipeline import tracking

    if keep and keep.exists():
        raise UserError(f"--keep {keep}: it exists already; name a folder that does not")
    with tempfile.TemporaryDirectory(prefix="petfaces-") as made:
        with tracking.reachable():
            version = tracking.find_version(f"models:/{name}{'/' if which.isdigit() else '@'}{which}")
            task = Rebuilding(Path(made).resolve(), version)
        _say("version", f"{version}, {tracking.name_of(task.trained)}, run {version.run_id}")
        with worktree(task.tree, task.commit, version):
            task.bring_code(trust, show=check)
            task.check_settings()
            task.bring_start()
            task.bring_data(check)
            if not task.now:
                task.ask()
            differ = differences(task.then, task.now)
            if differ and differ[0].startswith("code"):
                raise UserError(f"{version} can't be rebuilt: {differ[0]}; did files count that git ignores?")
            differ = [line for line in differ if not line.startswith("data's")]
            _say(
                "environment",
                "; ".join(differ) or f"as it was, {task.now['threads']} threads, {task.now['device']}",
            )
            if check:
                doubts = [*filter(None, [task.doubt]), *differ]
                may = f"could be rebuilt, but may differ: {'; '.join(doubts)}" if doubts else "can be rebuilt"
                print(f"reproduce: {version} {may}")
                return True
            began = time.monotonic()
            folder = task.train()
            seconds = time.monotonic() - began
            same, told = verdict(task.trained.train, folder, differ)
            if keep:
                shutil.copytree(folder, keep)
    told[0] += f", rebuilt from commit {task.commit[:8]} in {seconds:.0f} s"
    for line in told:
        print(f"reproduce: {version}: {line}")
    return same


@config.in_one_line()
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.reproduce",
        description="Rebuild a registered version, and say whether the weights are the same.",
    )
    parser.add_argument("name", help="of the registry: the data set's")
    parser.add_argument("version", help="its number, or an alias: champion")
    parser.add_argument("--check", action="store_true", help="only say whether it could be done")
    parser.add_argument(
        "--trust", action="store_true", help="run the uncommitted changes that the version's run kept, too"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the rebuilt train folder goes")
    chosen = parser.parse_args(arguments)
    # Ended from outside, it takes the worktree away, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended from outside"))
    sys.exit(not reproduce(chosen.name, chosen.version, chosen.check, chosen.keep, chosen.trust))


if __name__ == "__main__":
    main(sys.argv[1:])
