"""A trained model wherever it lies: outs of DVC's stages, a run's folder, a download from the registry."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline import tasks
from pipeline.artifacts import job_notes, seal, untrusted
from pipeline.artifacts.provenance import Provenance
from pipeline.common import tables
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.portable import ModelCard
from pipeline.tasks import Task


@dataclass(frozen=True)
class ModelFolder:
    """The folders of one model, each sealed; whoever made them, what is read is checked first.

    Attributes:
        train: weights, card, configuration, lineage and figures; None of an exported model.
        evaluation: figures and predictions on the test split; None where it has not been judged.
        portable: ``model.onnx`` and the card, as `OnnxClassifier` reads them; None where it has
            not been exported.
    """

    train: Path | None
    evaluation: Path | None = None
    portable: Path | None = None

    @classmethod
    def open(cls, train: Path) -> "ModelFolder":
        """A train folder's model, with all its files read and checked.

        Raises:
            UserError: one is missing, damaged or of an older form.
        """
        model = cls(train).checked()
        for _ in (model.card, model.settings, model.lineage, model.metrics):
            pass  # each is read on first use; an error should come before anything is written
        return model

    def checked(self) -> "ModelFolder":
        """Returns itself if every folder matches its seal.

        Raises:
            UserError: one is damaged.
        """
        for folder in (self.train, self.evaluation, self.portable):
            if folder:
                seal.check(folder)
        return self

    @cached_property
    def card(self) -> ModelCard:
        return untrusted.card(self.train or self.portable)

    @property
    def task(self) -> Task:
        """What its answers are."""
        return tasks.of(self.card.task)

    @cached_property
    def settings(self) -> dict:
        """The resolved configuration."""
        return untrusted.settings(self.train)

    @cached_property
    def lineage(self) -> dict:
        """Data, code and environment that it comes from."""
        return untrusted.lineage(self.train, "data")

    @cached_property
    def metrics(self) -> dict:
        """Figures of the kept weights on validation, and the cost."""
        return untrusted.figures(self.train / "metrics.json", self.task.monitor)

    @cached_property
    def test_metrics(self) -> dict:
        return untrusted.figures(self.evaluation / "metrics.json", self.task.test_key)

    @cached_property
    def provenance(self) -> Provenance:
        """The commit that it was trained from."""
        return Provenance.of(self.train)

    @property
    def sha256(self) -> str:
        """Of weights and card: what a registered version is known by."""
        return seal.model_hash(self.train)

    @property
    def sweep(self) -> str | None:
        """Name of the sweep that it was a job of."""
        return self.train.parent.name if self.train.parent.parent == ROOT / "runs/sweeps" else None

    def judged(self) -> list[tuple[str, str]]:
        """Hash and class of the test images, in order."""
        return [(row["sha256"], row["label"]) for row in self._predictions]

    def right(self) -> list[bool]:
        """Whether the whole answer to each test image is right."""
        return [row["label"] == row["predicted"] for row in self._predictions]

    @cached_property
    def _predictions(self) -> list[dict]:
        file = self.evaluation / "predictions.csv"
        try:
            # By content: an older evaluation has the same images by path.
            rows = sorted(tables.read(file), key=lambda row: (row["sha256"], row["label"]))
            return [{key: row[key] for key in ("sha256", "label", "predicted")} for row in rows]
        except (OSError, ValueError, LookupError) as error:
            raise UserError(f"{seal.near(file)} is missing or damaged") from error


def trained(runs: Path) -> list[Path]:
    """Finished train folders of DVC, sweeps and single runs; no champion's copy, nothing cut short."""
    folders = (path.parent for path in runs.rglob("lineage.json"))
    left_out = {"register", ".work"}
    whole = (
        folder
        for folder in folders
        if not left_out & set(folder.relative_to(runs).parts) and folder.suffix != ".part"
    )
    numbers = {sweep: job_notes.numbers(job_notes.read(sweep)) for sweep in (runs / "sweeps").glob("*")}

    def order(folder: Path) -> tuple[Path, str]:
        # The tenth job of a sweep does not come before the second; of earlier code the folder is its number.
        number = numbers.get(folder.parent, {}).get(folder.name, folder.name)
        return folder.parent, str(number).zfill(10)

    return sorted(whole, key=order)


def evaluation_of(train: Path) -> Path | None:
    """The evaluation of a train folder, unless it is of a former model there.

    Raises:
        UserError: it is damaged.
    """
    evaluation = train.parent.parent / "evaluate" / train.name
    known = evaluation / "model.sha256"
    if not known.is_file():
        return None
    seal.check(evaluation)
    return evaluation if known.read_text(encoding="utf-8").strip() == seal.model_hash(train) else None
