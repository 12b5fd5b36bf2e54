"""Prepares a worktree of a version's commit (code, start model, data) and trains in it.

``worktree_script.py`` is the part that runs inside the worktree.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from pipeline import tracking
from pipeline.artifacts import untrusted
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import CHANGES
from pipeline.artifacts.seal import model_hash
from pipeline.common import paths, yaml_files
from pipeline.common.errors import UserError
from pipeline.common.text import printable
from pipeline.maintenance import vetting
from pipeline.maintenance.comparison import WEIGHTS, differences, facts
from pipeline.maintenance.worktree import git
from pipeline.sources.download import DOWNLOADS
from pipeline.tracking.registry import Version

_log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("worktree_script.py")
OUT = "runs/single/rebuilt"  # in the worktree


def print_field(name: str, value: str) -> None:
    print(f"{name + ':':<14}{value}", flush=True)


class Reproduction:
    """The reproduction of one version in a temporary directory.

    Args:
        folder: the temporary directory.
        version: the registered version.

    Attributes:
        records: folder with the files that the version's run recorded.
        tree: the worktree.
        original: the version's model.
        recorded_facts: facts that the version recorded, see `comparison.facts`.
        current_facts: facts that a training here would record; empty until `read_facts`.
        warning: why the data may not be reproducible, found by a check.

    Raises:
        UserError: a recorded file is missing or damaged.
    """

    def __init__(self, folder: Path, version: Version):
        self.folder, self.version = folder, version
        self.records, self.tree = folder / "records", folder / "petfaces"
        self.original = ModelFolder.open(tracking.download_run(version, self.records))
        self.settings, self.lineage = self.original.settings, self.original.lineage
        self.data, self.commit = self.lineage["data"]["name"], self.original.provenance.commit
        try:
            self.recorded_facts, self.current_facts = facts(self.lineage, version.device), {}
        except KeyError as error:
            raise UserError(f"{version}: its lineage.json has no {error}; it can't be rebuilt") from error
        self.warning = ""

    def apply_changes(self, trust: bool, show: bool) -> None:
        """Applies the run's uncommitted changes to the worktree.

        Args:
            trust: whether the user allows uncommitted code to run.
            show: whether to print the diff, not only the file names.

        Raises:
            UserError: the changes were not recorded, change more than code, don't apply, or are not trusted.
        """
        provenance, short = self.original.provenance, self.commit[:8]
        if not provenance.dirty:
            lost = " (the record is lost; this commit has the same code)" if provenance.inferred else ""
            print_field("code", f"commit {short}{lost}")
            return
        diff = self.folder / CHANGES
        diff.write_bytes(provenance.changes or b"")
        if not diff.stat().st_size:
            raise UserError(
                f"{self.version} was trained with uncommitted changes to commit {short}, which were not "
                "recorded; it can't be rebuilt"
            )
        changed = vetting.changes(diff, self.tree)
        print_field("code", f"commit {short} with the run's uncommitted changes to {len(changed)} files:")
        for file in changed:
            print(f"  {file}")
        if show:
            for line in diff.read_text(encoding="utf-8", errors="replace").splitlines():
                print(f"  | {printable(line)}")
        if not trust:
            raise UserError(
                f"these changes are code that would run here; read them ({'above' if show else '--check'}) "
                f"and add --trust if you trust who made {self.version}"
            )
        result = git("apply", "--whitespace=nowarn", str(diff), cwd=self.tree)
        if result.returncode:
            reason = printable(" ".join(result.stderr.split()))
            raise UserError(f"the {CHANGES} of {self.version} does not apply to commit {short}: {reason}")

    def check_settings(self) -> None:
        """Validates the settings before they are passed to that commit's code.

        Raises:
            UserError: they contradict the lineage, or `vetting.settings` refuses them.
        """
        if self.settings["data"]["name"] != self.data:
            raise UserError(f"{self.version}: its lineage and its config.yaml name different data")
        if self.settings["model"].get("start") and not self.lineage.get("start"):
            raise UserError(f"{self.version}: its config.yaml names a start model, but its lineage does not")
        vetting.settings(self.settings, self.tree, self.version)

    def fetch_start_model(self) -> None:
        """Fetches the model that the training started from, if any, and points the settings to its folder.

        Raises:
            UserError: it is gone, or is another one by now.
        """
        expected = self.lineage.get("start")
        if not expected:
            return
        named = self.settings["model"]["start"]
        with tracking.reachable():
            # Found by hash, because an alias or a folder may hold another model by now.
            address = tracking.find_model(expected)
            if address:
                folder = tracking.download_train(address, self.folder / "start")
            else:
                folder = paths.from_root(str(named))
        if not (folder / WEIGHTS).is_file() or model_hash(folder) != expected:
            raise UserError(
                f"the model that {self.version} starts from ({named}, hash {expected[:12]}) is neither "
                "registered nor at its path any more; it can't be rebuilt"
            )
        self.settings["model"]["start"] = str(folder)
        print_field("start", address or str(named))

    def restore_data(self, check: bool) -> None:
        """Restores packed images and splits from DVC's cache or a remote, or runs the stages again.

        Args:
            check: only look; pulls and creates nothing.

        Raises:
            UserError: the data can't be created, or differs from the version's.
        """
        has_remote, locks = self._point_dvc(), self._write_params()
        sources = {"checkout": "DVC's cache"}
        if has_remote and not check:
            sources["pull"] = "DVC's remote"
        for verb, source in sources.items():
            for lock in locks:
                done = self._dvc(verb, lock)
                if done.returncode == 0:
                    self.read_facts()
                    if not self._data_differs():
                        print_field("data", f"{self.data}, from {source}")
                        return
                elif verb == "pull":  # the remote may be unreachable, or need a driver
                    _log.warning("%s", done.stderr.strip())
        if check:
            self._print_data_sources(locks if has_remote else [])
            return
        self._use_lock(locks[0] if locks else "")
        _log.info("%s is neither in DVC's cache nor on a remote; creating it again", self.data)
        downloads, tree_downloads = paths.main_checkout() / DOWNLOADS, self.tree / DOWNLOADS
        if downloads.is_dir():
            tree_downloads.parent.mkdir(parents=True, exist_ok=True)
            tree_downloads.symlink_to(downloads)
        # --no-commit, because the cache belongs to the main checkout.
        done = self._run(sys.executable, "-m", "dvc", "repro", "--no-commit", "split")
        if done.returncode:
            raise UserError(f"{self.version} can't be rebuilt: creating its data failed, see the error above")
        self.read_facts()
        if differ := self._data_differs():
            raise UserError(
                f"{self.version} can't be rebuilt: {differ[0]}; restore the data that it was trained on"
            )
        print_field("data", f"{self.data}, created again")

    def _print_data_sources(self, locks: list[str]) -> None:
        """Prints where a training would get the data: from a remote that has it, or from the stages."""
        for lock in locks:
            done = self._dvc("status", lock, "--cloud", "--json")
            # DVC warns of a missing folder only on stderr, not in the JSON.
            if done.returncode == 0 and "Missing cache" not in done.stderr:
                states = set(json.loads(done.stdout).values())
                if states and "missing" not in states:
                    print_field(
                        "data", f"{self.data}, on DVC's remote; a check pulls nothing, so it was not compared"
                    )
                    return
        differ = self._data_differs()
        other = f" (other data is there: {differ[0]})" if differ else ""
        kind = self.settings["data"]["source"].get("kind")
        generated = dict.fromkeys(("drawn", "drawn_attributes"), "generated")
        how = {**generated, "folder": "packed from fetch.path"}.get(kind, "downloaded")
        self.warning = f"its data must be {how} again"
        print_field("data", f"{self.data}, neither in DVC's cache nor on a remote{other}; to be {how} again")

    def _data_differs(self) -> list[str]:
        found = differences(self.recorded_facts, self.current_facts)
        return [difference for difference in found if difference.startswith("data's")]

    def _point_dvc(self) -> bool:
        """Gives the worktree the main checkout's cache and remotes; returns whether there are remotes."""
        from dvc.config import Config

        main = paths.main_checkout() / ".dvc"
        # Merges all levels with absolute paths: config.local is not in git, and remotes may be relative.
        merged = Config(str(main)).read()
        merged["cache"].setdefault("dir", str(main / "cache"))
        merged["core"]["site_cache_dir"] = str(self.folder / "dvc")  # by default in /var/tmp
        with Config(str(self.tree / ".dvc")).edit("local") as config:
            config.update(merged)
        return bool(merged["remote"])

    def _write_params(self) -> list[str]:
        """Writes the version's ``params.yaml``; returns candidates for its ``dvc.lock``, likeliest first.

        A run that was logged from files afterwards recorded neither. Then the commit's files are used, and
        the current lock as another candidate, since locks are committed after training. The data's hashes
        decide.
        """
        file, recorded_file = self.tree / "params.yaml", self.records / "params.yaml"
        params = untrusted.yaml_object(recorded_file if recorded_file.is_file() else file)
        vetting.params(params)
        params["data"] = self.data  # the command line may have overridden it and the following groups
        for group in ("pack", "split"):
            recorded = self.settings[group]
            params[group] = {key: recorded.get(key, value) for key, value in params.get(group, {}).items()}
        vetting.params(params)
        main = paths.main_checkout()
        if "fetch" in params:  # the location of the user's images is set by this checkout
            fetch = yaml_files.read(main / "params.yaml").get("fetch") or {}
            params["fetch"] = fetch | {"path": str(paths.from_root(fetch.get("path", "photos"), main))}
        file.write_text(yaml.safe_dump(params), encoding="utf-8")
        recorded_lock, others = self.records / "dvc.lock", (self.tree / "dvc.lock", main / "dvc.lock")
        locks = [vetting.lock(recorded_lock)] if recorded_lock.is_file() else []
        locks += [lock.read_text(encoding="utf-8") for lock in others if lock.is_file()]
        return list(dict.fromkeys(locks))

    def _use_lock(self, lock: str) -> None:
        """Writes ``dvc.lock``, and removes the data of a previous one."""
        shutil.rmtree(self.tree / "data" / self.data, ignore_errors=True)
        (self.tree / "dvc.lock").write_text(lock, encoding="utf-8")

    def _dvc(self, verb: str, lock: str, *options: str) -> subprocess.CompletedProcess:
        """Runs a DVC command on the packed images and splits that a lock names."""
        self._use_lock(lock)
        targets = (f"data/{self.data}/pack", f"data/{self.data}/split.csv")
        return self._run(sys.executable, "-m", "dvc", verb, *options, *targets, quiet=True)

    def read_facts(self) -> None:
        """Asks the worktree's code for the facts that a training would record.

        Raises:
            UserError: the configured device is not available.
        """
        result = self._run_script()
        if result["device"] is None:
            trainer, was = self.settings["trainer"], self.version.device
            raise UserError(
                f"{self.version} was trained on another device "
                f"({printable(trainer['accelerator'])} × {printable(trainer['devices'])}"
                f"{f', {was}' if was else ''}), which PyTorch does not see here; do it where there is one"
            )
        self.current_facts = facts(result["lineage"], result["device"])

    def train(self) -> Path:
        """Trains in the worktree; returns the train folder."""
        self._run_script(OUT)
        return self.tree / OUT

    def _run_script(self, *out: str) -> dict:
        """Runs ``worktree_script.py`` in the worktree; returns what it reports.

        Raises:
            UserError: it fails.
        """
        settings, report = self.folder / "config.yaml", self.folder / "report.json"
        settings.write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
        report.unlink(missing_ok=True)
        # Copied to a folder of its own, because Python puts a script's folder first on sys.path.
        script = self.folder / "script" / SCRIPT.name
        script.parent.mkdir(exist_ok=True)
        shutil.copyfile(SCRIPT, script)
        done = self._run(sys.executable, str(script), str(settings), str(report), *out, quiet=not out)
        result = {"error": f"status {done.returncode}"}
        if report.is_file():
            result = json.loads(report.read_text(encoding="utf-8"))
        if "error" in result:
            raise UserError(f"{self.version}: the code of commit {self.commit[:8]} failed: {result['error']}")
        return result

    def _run(self, *command: str, quiet: bool = False) -> subprocess.CompletedProcess:
        """Runs a program in the worktree, with its code, this Python and a separate MLflow store."""
        excluded = ("LOCAL_RANK", "WORLD_SIZE", "DVC_ROOT", "DVC_STAGE", "GIT_DIR", "GIT_WORK_TREE")
        environment = {name: value for name, value in os.environ.items() if name not in excluded}
        environment |= {
            "PYTHONPATH": f"{self.tree}{os.pathsep}{environment.get('PYTHONPATH', '')}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
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
            # Stops the whole session, because a training may have started other processes.
            for number, timeout in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(timeout)
            raise
        return subprocess.CompletedProcess(command, process.returncode, *output)
