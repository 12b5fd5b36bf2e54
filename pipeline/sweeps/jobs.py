"""A sweep as its files tell it: the jobs under ``runs/sweeps/<name>/``, and which parameters vary among them.

A parameter is a word (see `config.overrides`) that takes several values among the finished jobs of one
data set and model: a choice of a group, or a value that does not follow from another word. So a sweep over
models has the parameter `model`, and of the thirty keys that change with it only those that vary within a
model. Where ``conf/`` no longer has the files that a job chose, a word is what differs from the first job of
the same model.
"""

import itertools
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from omegaconf import OmegaConf

from pipeline import config, tasks, tracking
from pipeline.artifacts import curves, job_notes
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common import text, yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.config.overrides import NAMED, OverrideFinder, Overrides
from pipeline.tasks import Task

SWEEPS = ROOT / "runs/sweeps"
_NUMBER = re.compile("[0-9]{1,6}")  # a folder of earlier code, and no hash
ABSENT = "–"  # a model that has no such key


@dataclass
class Job:
    """One training of a sweep.

    Attributes:
        name: its number as Hydra gives it; its folder's name where that is not known.
        said: its overrides, where the sweep's ``multirun.yaml`` or MLflow tells them.
        status: finished, running, failed, no result or not started.
        settings: the resolved configuration; empty unless finished.
        metrics: those of ``metrics.json`` and the kept weights' val/loss.
        seconds: wall time, where MLflow saw it.
    """

    name: str
    folder: Path
    said: str = ""
    status: str = "no result"
    reason: str = ""
    settings: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    lineage: dict = field(default_factory=dict)
    drawings: bool = False
    task: Task | None = None
    words: Overrides | None = None
    seconds: float | None = None

    @cached_property
    def plain(self) -> dict:
        """The settings under dotted keys."""
        return dict(config.flat(self.settings))

    def value(self, key: str) -> object:
        """Of a group's choice or a dotted key."""
        if self.words and key in self.words.choices:
            return self.words.choices[key]
        return self.plain.get(key, ABSENT)


@dataclass
class Sweep:
    """All jobs, in their order.

    Attributes:
        parameters: what varies; `seed` never is among them.
        notes: what a reader has to know about the reading.
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
        """What the answers of its models are."""
        return next((job.task for job in self.finished), tasks.of("single_label"))


def names() -> list[str]:
    """Of all sweeps."""
    return sorted(path.name for path in SWEEPS.glob("*") if path.is_dir() and not path.name.startswith("."))


def resolve(word: str) -> str:
    """A sweep's name from its name, or its parent run's name or id in MLflow.

    Raises:
        UserError: there is no such sweep, with the names that there are.
    """
    known = names()
    for name in (word, word.removeprefix("sweep ")):
        if name in known:
            return name
    hint = f"there {'are' if len(known) > 1 else 'is'} {', '.join(known)}" if known else "there is none yet"
    try:
        found = tracking.sweep_of(word)
    except UserError as error:
        raise UserError(f"no sweep is called '{word}': {hint} ({error})") from error
    if found is None:
        raise UserError(f"no sweep is called '{word}': {hint}")
    if found not in known:
        raise UserError(f"MLflow knows sweep '{found}', but its files are not in runs/sweeps/: {hint}")
    return found


def _natural(name: str) -> list:
    """Sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _kept(rows: list[dict], monitor: str) -> dict:
    """The row of the weights that were kept, as training chooses them."""
    epochs = [row for row in rows if row.get("epoch")]
    if epochs:
        return max(epochs, key=lambda row: -1 if math.isnan(row[monitor]) else row[monitor])
    return min(rows, key=lambda row: row["val/loss"])


def _read(folder: Path, number: int | None, noted: dict) -> Job:
    """The job of a folder.

    Args:
        folder: of the sweep's.
        number: where it is known.
        noted: see `job_notes.read`.
    """
    job = Job(folder.name if number is None else str(number), folder, str(noted.get("words") or ""))
    if not (folder / "metrics.json").is_file():
        job.reason = str(noted.get("error") or "")
        job.status = "failed" if job.reason else job.status
        return job
    try:
        model = ModelFolder(folder)
        metrics, job.lineage, job.drawings = dict(model.metrics), model.lineage, model.card.drawings
        job.task = model.task
        metrics["val/loss"] = _kept(curves.read(folder), model.task.monitor)["val/loss"]
        job.settings, job.metrics = model.settings, metrics
    except UserError as error:
        job.reason = f"unreadable: {error}"
        return job
    except (OSError, ValueError, KeyError, TypeError) as error:
        job.reason = f"unreadable: {type(error).__name__} {error}"
        return job
    job.status = "finished"
    return job


def _asked(folder: Path) -> list[str]:
    """The overrides of each job as Hydra's own sweeper numbers them; none where it was another one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        tree = yaml_files.load(folder / "multirun.yaml")
    except UserError:
        return []
    sweeper = OmegaConf.select(tree, "hydra.sweeper")
    if not str(OmegaConf.select(tree, "hydra.sweeper._target_")).endswith("BasicSweeper"):
        return []
    given = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *tree.hydra.overrides.task])
    # As in the sweeper, a later word on the same key replaces the earlier one.
    lists = {
        item.get_key_element(): (
            [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()]
            if item.is_sweep_override()
            else [item.input_line]
        )
        for item in parsed
    }
    return [text.without_password(" ".join(words)) for words in itertools.product(*lists.values())]


def _spell(sweep: Sweep) -> None:
    """Gives each finished job its words."""
    speller = OverrideFinder()
    try:
        for job in sweep.finished:
            job.words = speller.words(job.settings)
    except UserError as error:
        sweep.notes.append(f"{error}: parameters are told by their differences among the jobs alone.")
        first: dict[tuple, dict] = {}
        for job in sweep.finished:
            choices = {group: job.settings[group]["name"] for group in NAMED}
            before = first.setdefault(tuple(choices.values()), job.plain)
            values = {key: value for key, value in job.plain.items() if before.get(key, ABSENT) != value}
            job.words = Overrides(choices, values)


def _varying(jobs: list[Job]) -> list[str]:
    keys = dict.fromkeys(key for job in jobs for key in job.words.choices)
    keys |= dict.fromkeys(key for job in jobs for key in job.words.values if key != "seed")
    kinds: dict[tuple, list[Job]] = {}
    for job in jobs:
        kinds.setdefault(tuple(job.words.choices[group] for group in NAMED), []).append(job)

    def several(key: str, among: list[Job]) -> bool:
        return len({repr(job.value(key)) for job in among}) > 1

    return [
        key
        for key in keys
        if (key in NAMED and several(key, jobs))
        or (key not in NAMED and any(several(key, some) for some in kinds.values()))
    ]


def _ask_mlflow(sweep: Sweep) -> None:
    """Wall times, and what became of jobs without a result, from MLflow, where it answers."""
    try:
        runs = tracking.sweep_runs(sweep.name)
    except UserError as error:
        sweep.notes.append(f"{error}: no wall times, no reasons of failures.")
        return
    by_params: dict[frozenset, list[dict]] = {}
    by_name: dict[str, dict] = {}
    for run in runs:
        by_params.setdefault(tracking.comparable(run["params"]), []).append(run)
        by_name[run["name"]] = run
    for job in sweep.jobs:
        if job.status == "finished":
            same = by_params.get(tracking.comparable(tracking.params(job.settings)), [])
            timed = next((run for run in same if run["seconds"] is not None), None)
            job.seconds = timed["seconds"] if timed else None
        elif run := by_name.get(job.said):
            job.status = {"FAILED": "failed", "RUNNING": "running"}.get(run["status"], job.status)
            job.reason = job.reason or run["reason"]


def read(name: str, spell: bool = True) -> Sweep:
    """The sweep of this name.

    Args:
        name: a folder of ``runs/sweeps/``.
        spell: whether to find the parameters, and to ask MLflow for what files do not tell.
    """
    folder = SWEEPS / name
    places = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    noted = job_notes.read(folder)
    numbers = job_notes.numbers(noted)
    jobs = []
    for path in places:
        if path.suffix != ".part":
            number = numbers.get(path.name, int(path.name) if _NUMBER.fullmatch(path.name) else None)
            jobs.append(_read(path, number, noted.get(number, {})))
    asked = _asked(folder)
    there = {int(job.name) for job in jobs if _NUMBER.fullmatch(job.name)}
    for job in jobs:
        if not job.said and _NUMBER.fullmatch(job.name) and int(job.name) < len(asked):
            job.said = asked[int(job.name)]
    if len(there) == len(jobs):
        folders = {job.folder.name for job in jobs}  # two jobs that train the same have one
        there |= {number for number, each in noted.items() if str(each["folder"]) in folders}
        jobs += [
            Job(str(number), folder / str(number), said, "not started")
            for number, said in enumerate(asked)
            if number not in there
        ]
    sweep = Sweep(name, sorted(jobs, key=lambda job: _natural(job.name)))
    if not spell:
        return sweep
    _ask_mlflow(sweep)
    _spell(sweep)
    sweep.parameters = _varying(sweep.finished)
    splits = {(job.lineage["data"]["content"], job.lineage["data"]["split"]) for job in sweep.finished}
    if len(splits) > 1:
        sweep.notes.append(
            f"The jobs were judged on {len(splits)} different validation splits: figures do not compare."
        )
    # The first versions noted no hash of the code, but the commit.
    codes = {job.lineage.get("code") or job.lineage.get("commit") for job in sweep.finished}
    if len(codes) > 1:
        sweep.notes.append("The code was changed while the sweep ran: its jobs are of different code.")
    return sweep
