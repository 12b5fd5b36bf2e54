"""A sweep as read from files: the jobs under ``runs/sweeps/<name>/``, and which parameters vary among them.

A parameter of a sweep is a setting whose value varies among the finished jobs of one data set and model.
Settings that only follow from another one don't count: a sweep over models has the parameter `model`, not the
thirty keys that change with it. They are found by `config.overrides`. If ``conf/`` no longer has the files
that a job selected, a job's overrides are its differences from the first job of the same model.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pipeline import config, tasks, tracking
from pipeline.artifacts import curves, job_outcomes
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common import text, yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.config.overrides import BY_NAME, OverrideFinder, Overrides
from pipeline.config.renamed import upgrade
from pipeline.tasks import Task

SWEEPS = ROOT / "runs/sweeps"
_NUMBER = re.compile("[0-9]{1,6}")  # a job number; also the name of a job's folder from earlier code
ABSENT = "–"  # the value of a key that the job's model does not have


@dataclass
class Job:
    """One training of a sweep.

    Attributes:
        name: Hydra's job number; the folder's name if the number is unknown.
        folder: its train folder.
        override_text: from its outcome or the sweep's ``multirun.yaml``; empty if unknown.
        status: finished, running, failed, no result or not started.
        reason: why it has no result, if known.
        settings: the resolved configuration, with today's names of keys; empty unless finished.
        metrics: ``metrics.json`` and the kept weights' val/loss.
        lineage: data, code and environment.
        drawings: whether its images are drawings.
        task: of its model.
        overrides: found from the settings; see `config.overrides`.
        seconds: wall time, if MLflow recorded it.
    """

    name: str
    folder: Path
    override_text: str = ""
    status: str = "no result"
    reason: str = ""
    settings: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    lineage: dict = field(default_factory=dict)
    drawings: bool = False
    task: Task | None = None
    overrides: Overrides | None = None
    seconds: float | None = None

    @cached_property
    def plain(self) -> dict:
        """The settings as a flat dict with dotted keys."""
        return dict(config.flat(self.settings))

    def value(self, key: str) -> object:
        """The choice of a group or the value of a dotted key; `ABSENT` if there is none."""
        if self.overrides and key in self.overrides.choices:
            return self.overrides.choices[key]
        return self.plain.get(key, ABSENT)


@dataclass
class Sweep:
    """All jobs of a sweep, in order.

    Attributes:
        parameters: the varying parameters, without `seed`.
        notes: caveats to show with the results.
    """

    name: str
    jobs: list[Job]
    parameters: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def finished(self) -> list[Job]:
        return [job for job in self.jobs if job.status == "finished"]

    @property
    def task(self) -> Task:
        """The task of its models."""
        return next((job.task for job in self.finished), tasks.of("single_label"))


def names() -> list[str]:
    """Names of all sweeps."""
    return sorted(path.name for path in SWEEPS.glob("*") if path.is_dir() and not path.name.startswith("."))


def resolve(name_or_id: str) -> str:
    """A sweep's name from its name, or its parent run's name or id in MLflow.

    Raises:
        UserError: there is no such sweep; the message lists the existing ones.
    """
    known = names()
    for name in (name_or_id, name_or_id.removeprefix("sweep ")):
        if name in known:
            return name
    hint = f"there {'are' if len(known) > 1 else 'is'} {', '.join(known)}" if known else "there is none yet"
    try:
        found = tracking.sweep_of(name_or_id)
    except UserError as error:
        raise UserError(f"no sweep is called '{name_or_id}': {hint} ({error})") from error
    if found is None:
        raise UserError(f"no sweep is called '{name_or_id}': {hint}")
    if found not in known:
        raise UserError(f"MLflow has sweep '{found}', but its files are not in runs/sweeps/: {hint}")
    return found


def _natural_key(name: str) -> list:
    """Sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read(folder: Path, number: int | None, outcome: dict) -> Job:
    """The job in a folder.

    Args:
        folder: the job's folder.
        number: the job's number, if known.
        outcome: see `job_outcomes.read`; empty if unknown.
    """
    job = Job(folder.name if number is None else str(number), folder, str(outcome.get("words") or ""))
    if not (folder / "metrics.json").is_file():
        job.reason = str(outcome.get("error") or "")
        job.status = "failed" if job.reason else job.status
        return job
    try:
        model = ModelFolder(folder)
        metrics, job.lineage, job.drawings = dict(model.metrics), model.lineage, model.card.drawings
        job.task = model.task
        metrics["val/loss"] = tasks.best_row(curves.read(folder), model.task.monitor)["val/loss"]
        job.settings, job.metrics = upgrade(model.settings), metrics
    except UserError as error:
        job.reason = f"unreadable: {error}"
        return job
    except (OSError, ValueError, KeyError, TypeError) as error:
        job.reason = f"unreadable: {type(error).__name__} {error}"
        return job
    job.status = "finished"
    return job


def _planned_overrides(folder: Path) -> list[str]:
    """The overrides of each job of the sweep's command, by job number; empty if they are unknown."""
    try:
        tree = yaml_files.load(folder / "multirun.yaml")
    except UserError:
        return []
    if not str(OmegaConf.select(tree, "hydra.sweeper._target_")).endswith("BasicSweeper"):
        return []
    # As in BasicSweeper.sweep.
    params = [f"{key}={value}" for key, value in (tree.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *tree.hydra.overrides.task])
    try:
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException:  # such as a glob() over files that conf/ no longer has
        return []
    return [text.without_password(" ".join(overrides)) for overrides in jobs]


def _find_overrides(sweep: Sweep) -> None:
    """Sets the overrides of each finished job."""
    finder = OverrideFinder()
    try:
        for job in sweep.finished:
            job.overrides = finder.find(job.settings)
    except UserError as error:
        sweep.notes.append(f"{error}: parameters are found from the differences between jobs alone.")
        references: dict[tuple, dict] = {}
        for job in sweep.finished:
            choices = {group: job.settings[group]["name"] for group in BY_NAME}
            reference = references.setdefault(tuple(choices.values()), job.plain)
            values = {key: value for key, value in job.plain.items() if reference.get(key, ABSENT) != value}
            job.overrides = Overrides(choices, values)


def _varying_parameters(jobs: list[Job]) -> list[str]:
    """The parameters of the module's docstring, without `seed`."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides.choices)
    keys |= dict.fromkeys(key for job in jobs for key in job.overrides.values if key != "seed")
    by_model: dict[tuple, list[Job]] = {}
    for job in jobs:
        by_model.setdefault(tuple(job.overrides.choices[group] for group in BY_NAME), []).append(job)

    def several(key: str, among: list[Job]) -> bool:
        return len({repr(job.value(key)) for job in among}) > 1

    return [
        key
        for key in keys
        if (key in BY_NAME and several(key, jobs))
        or (key not in BY_NAME and any(several(key, some) for some in by_model.values()))
    ]


def _add_mlflow_records(sweep: Sweep) -> None:
    """Adds wall times and the status of jobs without a result from MLflow, if it answers."""
    try:
        runs = tracking.sweep_runs(sweep.name)
    except UserError as error:
        sweep.notes.append(f"{error}: no wall times and no reasons for failures.")
        return
    by_params: dict[frozenset, list[dict]] = {}
    by_name: dict[str, dict] = {}
    for run in runs:
        by_params.setdefault(tracking.comparable(run["params"]), []).append(run)
        by_name[run["name"]] = run
    for job in sweep.jobs:
        if job.status == "finished":
            matching = by_params.get(tracking.comparable(tracking.params(job.settings)), [])
            timed = next((run for run in matching if run["seconds"] is not None), None)
            job.seconds = timed["seconds"] if timed else None
        elif run := by_name.get(job.override_text):
            job.status = {"FAILED": "failed", "RUNNING": "running"}.get(run["status"], job.status)
            job.reason = job.reason or run["reason"]


def read(name: str, details: bool = True) -> Sweep:
    """Reads a sweep.

    Args:
        name: a folder of ``runs/sweeps/``.
        details: whether to find the varying parameters, and to query MLflow for wall times and failures.
    """
    folder = SWEEPS / name
    paths = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    outcomes = job_outcomes.read(folder)
    numbers = job_outcomes.numbers(outcomes)
    jobs = []
    for path in paths:
        if path.suffix != ".part":
            number = numbers.get(path.name, int(path.name) if _NUMBER.fullmatch(path.name) else None)
            jobs.append(_read(path, number, outcomes.get(number, {})))
    planned = _planned_overrides(folder)
    started = {int(job.name) for job in jobs if _NUMBER.fullmatch(job.name)}
    for job in jobs:
        if not job.override_text and _NUMBER.fullmatch(job.name) and int(job.name) < len(planned):
            job.override_text = planned[int(job.name)]
    if len(started) == len(jobs):
        folders = {job.folder.name for job in jobs}  # identical jobs share a folder
        started |= {number for number, each in outcomes.items() if str(each["folder"]) in folders}
        jobs += [
            Job(str(number), folder / str(number), overrides, "not started")
            for number, overrides in enumerate(planned)
            if number not in started
        ]
    sweep = Sweep(name, sorted(jobs, key=lambda job: _natural_key(job.name)))
    if not details:
        return sweep
    _add_mlflow_records(sweep)
    _find_overrides(sweep)
    sweep.parameters = _varying_parameters(sweep.finished)
    splits = {(job.lineage["data"]["content"], job.lineage["data"]["split"]) for job in sweep.finished}
    if len(splits) > 1:
        sweep.notes.append(
            f"The jobs have {len(splits)} different validation splits: their metrics are not comparable."
        )
    # Early versions recorded the commit instead of a hash of the code.
    codes = {job.lineage.get("code") or job.lineage.get("commit") for job in sweep.finished}
    if len(codes) > 1:
        sweep.notes.append("The code was changed while the sweep ran: its jobs ran different code.")
    return sweep
