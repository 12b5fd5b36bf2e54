"""One version's worktree: its code, settings, start and data brought there, and the training in it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from pipeline.artifacts import untrusted
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import CHANGES
from pipeline.artifacts.seal import model_hash
from pipeline.common import paths, text, yaml_files
from pipeline.common.errors import UserError
from pipeline.common.text import printable
from pipeline.maintenance import vetting
from pipeline.maintenance.comparison import WEIGHTS, differences, facts
from pipeline.maintenance.worktree import git
from pipeline.sources.download import DOWNLOADS

CHILD = Path(__file__).with_name("rebuild.py")
OUT = "runs/single/rebuilt"  # in the worktree


def say(what: str, text: str) -> None:
    print(f"{what + ':':<14}{text}", flush=True)


class Reproduction:
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
            say("code", f"commit {short}{why}")
            return
        changes = self.place / CHANGES
        changes.write_bytes(self.trained.provenance.changes or b"")
        if not changes.stat().st_size:
            raise UserError(
                f"{self.version} was trained with uncommitted changes to commit {short}, which nobody kept; "
                "it can't be rebuilt"
            )
        changed = vetting.changes(changes, self.tree)
        say("code", f"commit {short} with uncommitted changes that the run kept, of {len(changed)} files:")
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
        done = git("apply", "--whitespace=nowarn", str(changes), cwd=self.tree)
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
                folder = paths.from_root(str(named))
        if not (folder / WEIGHTS).is_file() or model_hash(folder) != wanted:
            raise UserError(
                f"the model that {self.version} starts from ({named}, hash {wanted[:12]}) is not registered, "
                "nor is it there any more; it can't be rebuilt"
            )
        self.settings["model"]["start"] = str(folder)
        say("start", address or str(named))

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
                        say("data", f"{self.data}, from {source}")
                        return
                elif verb == "pull":  # a remote may be out of reach, or want a driver
                    print(text.without_password(done.stderr.strip()), file=sys.stderr, flush=True)
        if check:
            self._say_where_data_may_be(locks if remotes else [])
            return
        self._use(locks[0] if locks else "")
        print(f"{self.data} is neither in DVC's cache nor on a remote: it is made again", flush=True)
        downloads, own = paths.main_checkout() / DOWNLOADS, self.tree / DOWNLOADS
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
        say("data", f"{self.data}, made again")

    def _say_where_data_may_be(self, locks: list[str]) -> None:
        for lock in locks:
            done = self._dvc("status", lock, "--cloud", "--json")
            # A folder that is nowhere is warned of on stderr, and is not in the answer.
            if done.returncode == 0 and "Missing cache" not in done.stderr:
                states = set(json.loads(done.stdout).values())
                if states and "missing" not in states:
                    say(
                        "data", f"{self.data}, on DVC's remote; a check pulls nothing, so it was not compared"
                    )
                    return
        differ = self._data_differs()
        found = f" (there is other: {differ[0]})" if differ else ""
        kind = self.settings["data"]["source"].get("kind")
        how = {"drawn": "drawn", "folder": "packed from fetch.path"}.get(kind, "downloaded")
        self.doubt = f"its data must be {how} again"
        say("data", f"{self.data}, neither in DVC's cache nor on a remote{found}; to be {how} again")

    def _data_differs(self) -> list[str]:
        return [line for line in differences(self.then, self.now) if line.startswith("data's")]

    def _point_dvc(self) -> bool:
        """Gives the worktree the main checkout's cache and remotes; whether there are remotes."""
        from dvc.config import Config

        main = paths.main_checkout() / ".dvc"
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
        params = untrusted.yaml_object(kept if kept.is_file() else own)
        vetting.params(params)
        params["data"] = self.data  # the command line may have chosen it, as it may what follows
        for group in ("pack", "split"):
            known = self.settings[group]
            params[group] = {key: known.get(key, value) for key, value in params.get(group, {}).items()}
        vetting.params(params)
        main = paths.main_checkout()
        if "fetch" in params:  # where a person's pictures lie is for this checkout to say
            own_fetch = yaml_files.read(main / "params.yaml").get("fetch") or {}
            path = paths.from_root(own_fetch.get("path", "photos"), main)
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
