"""Makes a worktree of a version's commit, prepares it (settings, start model, data) and trains in it."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from pipeline import tracking
from pipeline.artifacts import untrusted
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import CHANGES
from pipeline.artifacts.seal import model_hash
from pipeline.common import paths, yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.common.text import printable
from pipeline.maintenance import vetting
from pipeline.maintenance.comparison import WEIGHTS, differences, facts
from pipeline.sources.download import DOWNLOADS

_log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("worktree_script.py")
OUT = "runs/single/rebuilt"  # in the worktree


def say(what: str, text: str) -> None:
    print(f"{what + ':':<14}{text}", flush=True)


def _git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    # Disables the user's hooks; DVC's post-checkout hook would check out data.
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace")


@contextmanager
def worktree(tree: Path, commit: str | None, version) -> Iterator[None]:
    """Creates a worktree of the commit that trained a version, and removes it afterwards.

    Raises:
        UserError: the worktree can't be created.
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
        result = _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        if result.returncode:
            raise UserError(f"git makes no worktree of commit {short}: {' '.join(result.stderr.split())}")
        yield
    finally:
        # Not `prune`, which would also drop a user's worktree on a disk that is not mounted now.
        # Forced twice, because a worktree whose creation was interrupted is still locked.
        _git("worktree", "remove", "--force", "--force", str(tree))


class Reproduction:
    """The reproduction of one version in a temporary directory.

    Attributes:
        version: the registered version.
        kept: folder with the files that its run recorded.
        tree: the worktree.
        then: facts that the version recorded.
        now: facts that a training here would record; empty until `ask`.
        doubt: why the data may not be reproducible, found by a check.
    """

    def __init__(self, place: Path, version):
        self.place, self.version = place, version
        self.kept, self.tree = place / "kept", place / "petfaces"
        self.trained = ModelFolder.open(tracking.download_run(version, self.kept))
        self.settings, self.lineage = self.trained.settings, self.trained.lineage
        self.data, self.commit = self.lineage["data"]["name"], self.trained.provenance.commit
        try:
            self.then, self.now = facts(self.lineage, version.device), {}
        except KeyError as error:
            raise UserError(f"{version}: its lineage.json has no {error}; it can't be rebuilt") from error
        self.doubt = ""

    def bring_code(self, trust: bool, show: bool) -> None:
        """Applies the run's uncommitted changes to the worktree.

        Args:
            trust: whether the user allows uncommitted code to run.
            show: whether to print the diff, not only the file names.

        Raises:
            UserError: the changes were not recorded, change more than code, don't apply, or are not trusted.
        """
        provenance, short = self.trained.provenance, self.commit[:8]
        if not provenance.dirty:
            lost = " (the record is lost; this commit has the same code)" if provenance.inferred else ""
            say("code", f"commit {short}{lost}")
            return
        changes = self.place / CHANGES
        changes.write_bytes(provenance.changes or b"")
        if not changes.stat().st_size:
            raise UserError(
                f"{self.version} was trained with uncommitted changes to commit {short}, which nobody kept; "
                "it can't be rebuilt"
            )
        changed = vetting.changes(changes, self.tree)
        say("code", f"commit {short} with uncommitted changes that the run kept, of {len(changed)} files:")
        for file in changed:
            print(f"  {file}")
        if show:
            for line in changes.read_text(encoding="utf-8", errors="replace").splitlines():
                print(f"  | {printable(line)}")
        if not trust:
            raise UserError(
                f"these changes are code that would run here; read them ({'above' if show else '--check'}) "
                f"and add --trust if you trust who made {self.version}"
            )
        result = _git("apply", "--whitespace=nowarn", str(changes), cwd=self.tree)
        if result.returncode:
            reason = printable(" ".join(result.stderr.split()))
            raise UserError(f"the {CHANGES} of {self.version} does not fit commit {short}: {reason}")

    def check_settings(self) -> None:
        """Validates the settings before they are passed to that commit's code."""
        if self.settings["data"]["name"] != self.data:
            raise UserError(f"{self.version}: its lineage and its config.yaml name different data")
        if self.settings["model"].get("start") and not self.lineage.get("start"):
            raise UserError(f"{self.version}: its config.yaml names a start that its lineage does not")
        vetting.settings(self.settings, self.tree, self.version)

    def bring_start(self) -> None:
        """Fetches the start model and points the settings to its folder."""
        wanted = self.lineage.get("start")
        if not wanted:
            return
        named = self.settings["model"]["start"]
        with tracking.reachable():
            # Found by hash, because an alias or a folder may hold another model by now.
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
        """Restores packed images and splits from DVC's cache or a remote, or runs the stages again.

        Args:
            check: only look; pulls and creates nothing.
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
                elif verb == "pull":  # the remote may be unreachable, or need a driver
                    _log.warning("%s", done.stderr.strip())
        if check:
            self._say_where_data_may_be(locks if remotes else [])
            return
        self._use(locks[0] if locks else "")
        _log.info("%s is neither in DVC's cache nor on a remote: it is made again", self.data)
        downloads, own = paths.main_checkout() / DOWNLOADS, self.tree / DOWNLOADS
        if downloads.is_dir():
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(downloads)
        # --no-commit, because the cache belongs to the main checkout.
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
            # DVC warns of a missing folder only on stderr, not in the JSON.
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
        """Gives the worktree the main checkout's cache and remotes; returns whether there are remotes."""
        from dvc.config import Config

        main = paths.main_checkout() / ".dvc"
        # Merges all levels with absolute paths: config.local is not in git, and remotes may be relative.
        merged = Config(str(main)).read()
        merged["cache"].setdefault("dir", str(main / "cache"))
        merged["core"]["site_cache_dir"] = str(self.place / "dvc")  # else DVC leaves files in /var/tmp
        with Config(str(self.tree / ".dvc")).edit("local") as own:
            own.update(merged)
        return bool(merged["remote"])

    def _write_params(self) -> list[str]:
        """Writes the version's ``params.yaml``; returns candidates for its ``dvc.lock``, likeliest first.

        A run that was imported from files recorded neither. Then the commit's files are used, and as another
        candidate the current lock, since locks are committed after training. The data's hashes decide.
        """
        own = self.tree / "params.yaml"
        kept = self.kept / "params.yaml"
        params = untrusted.yaml_object(kept if kept.is_file() else own)
        vetting.params(params)
        params["data"] = self.data  # the command line may have overridden it and the following groups
        for group in ("pack", "split"):
            recorded = self.settings[group]
            params[group] = {key: recorded.get(key, value) for key, value in params.get(group, {}).items()}
        vetting.params(params)
        main = paths.main_checkout()
        if "fetch" in params:  # the location of the user's images is set by this checkout
            own_fetch = yaml_files.read(main / "params.yaml").get("fetch") or {}
            path = paths.from_root(own_fetch.get("path", "photos"), main)
            params["fetch"] = own_fetch | {"path": str(path)}
        own.write_text(yaml.safe_dump(params), encoding="utf-8")
        recorded, others = self.kept / "dvc.lock", (self.tree / "dvc.lock", main / "dvc.lock")
        locks = [vetting.lock(recorded)] if recorded.is_file() else []
        locks += [file.read_text(encoding="utf-8") for file in others if file.is_file()]
        return list(dict.fromkeys(locks))

    def _use(self, lock: str) -> None:
        """Writes ``dvc.lock``, and removes the data of a previous one."""
        shutil.rmtree(self.tree / "data" / self.data, ignore_errors=True)
        (self.tree / "dvc.lock").write_text(lock, encoding="utf-8")

    def _dvc(self, verb: str, lock: str, *options: str) -> subprocess.CompletedProcess:
        """Runs a DVC command on the data in a lock."""
        self._use(lock)
        targets = (f"data/{self.data}/pack", f"data/{self.data}/split.csv")
        return self._run(sys.executable, "-m", "dvc", verb, *options, *targets, quiet=True)

    def ask(self) -> None:
        """Gets the facts that the worktree's code would record of a training.

        Raises:
            UserError: the configured device is not available.
        """
        answer = self._child()
        if answer["device"] is None:
            trainer, was = self.settings["trainer"], self.version.device
            raise UserError(
                f"{self.version} was trained on another device "
                f"({printable(trainer['accelerator'])} × {printable(trainer['devices'])}"
                f"{f', {was}' if was else ''}), which PyTorch does not see here; do it where there is one"
            )
        self.now = facts(answer["lineage"], answer["device"])

    def train(self) -> Path:
        """Trains in the worktree; returns the train folder."""
        self._child(OUT)
        return self.tree / OUT

    def _child(self, *out: str) -> dict:
        settings, answer = self.place / "config.yaml", self.place / "answer.json"
        settings.write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
        answer.unlink(missing_ok=True)
        # In its own folder, which Python puts first on sys.path.
        program = self.place / "program" / CHILD.name
        program.parent.mkdir(exist_ok=True)
        shutil.copyfile(CHILD, program)
        done = self._run(sys.executable, str(program), str(settings), str(answer), *out, quiet=not out)
        response = {"error": f"status {done.returncode}"}
        if answer.is_file():
            response = json.loads(answer.read_text(encoding="utf-8"))
        if "error" in response:
            raise UserError(
                f"{self.version}: the code of commit {self.commit[:8]} broke off: {response['error']}"
            )
        return response

    def _run(self, *command: str, quiet: bool = False) -> subprocess.CompletedProcess:
        """Runs a program in the worktree, with its code, this Python and a separate MLflow store."""
        excluded = ("LOCAL_RANK", "WORLD_SIZE", "DVC_ROOT", "DVC_STAGE", "GIT_DIR", "GIT_WORK_TREE")
        environment = {name: value for name, value in os.environ.items() if name not in excluded}
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
            output = process.communicate()
        except BaseException:
            # Ends the whole session, because a training may have started other processes.
            for end, timeout in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, end)
                    process.wait(timeout)
            raise
        return subprocess.CompletedProcess(command, process.returncode, *output)
