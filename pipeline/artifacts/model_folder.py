"""A trained model on disk: outs of DVC's stages, a run's folder, or a download from the registry."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline import tasks
from pipeline.artifacts import job_outcomes, seal, untrusted
from pipeline.artifacts.provenance import Provenance
from pipeline.common import tables
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.portable import ModelCard
from pipeline.tasks import Task


@dataclass(frozen=True)
class ModelFolder:
    """The sealed folders of one model; their files are untrusted and validated when read.

    Attributes:
        train: weights, card, config, lineage and metrics; None for an exported model.
        evaluation: metrics and predictions on the test split; None if not evaluated.
        portable: ``model.onnx`` and the card, as `OnnxClassifier` reads them; None if not exported.
    """

    train: Path | None
    evaluation: Path | None = None
    portable: Path | None = None

    @classmethod
    def open(cls, train: Path) -> "ModelFolder":
        """A train folder's model, with all its files read and checked.

        Raises:
            UserError: a file is missing, damaged or in an older format.
        """
        model = cls(train).verified()
        for _ in (model.card, model.settings, model.lineage, model.metrics):
            pass  # read lazily; errors should surface before anything is written
        return model

    def verified(self) -> "ModelFolder":
        """Checks that every folder matches its seal; returns itself.

        Raises:
            UserError: a folder is damaged or was never sealed.
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
        """Single-label or multi-label."""
        return tasks.of(self.card.task)

    @cached_property
    def settings(self) -> dict:
        """The resolved config."""
        return untrusted.settings(self.train)

    @cached_property
    def lineage(self) -> dict:
        """Data, code and environment of the training run."""
        return untrusted.lineage(self.train, "data")

    @cached_property
    def metrics(self) -> dict:
        """Validation metrics of the saved weights, and the model's cost."""
        return untrusted.metrics(self.train / "metrics.json", self.task.monitor)

    @cached_property
    def test_metrics(self) -> dict:
        """Metrics on the test split, with their intervals."""
        return untrusted.metrics(self.evaluation / "metrics.json", self.task.test_key)

    @cached_property
    def provenance(self) -> Provenance:
        """The commit the model was trained from."""
        return Provenance.of(self.train)

    @cached_property
    def sha256(self) -> str:
        """Hash of weights and card; identifies a registered version."""
        return seal.model_hash(self.train)

    @property
    def sweep(self) -> str | None:
        """Name of the sweep that trained it, or None."""
        return self.train.parent.name if self.train.parent.parent == ROOT / "runs/sweeps" else None

    def test_images(self) -> list[tuple[str, str]]:
        """SHA-256 and label of the test images, sorted."""
        return [(row["sha256"], row["label"]) for row in self._predictions]

    def test_correct(self) -> list[bool]:
        """Whether each prediction is correct (all labels, if multi-label), in the order of `test_images`."""
        return [row["label"] == row["predicted"] for row in self._predictions]

    @cached_property
    def _predictions(self) -> list[dict]:
        file = self.evaluation / "predictions.csv"
        try:
            # Sorted by hash here, since older evaluations are sorted by path.
            rows = sorted(tables.read(file), key=lambda row: (row["sha256"], row["label"]))
            return [{key: row[key] for key in ("sha256", "label", "predicted")} for row in rows]
        except (OSError, ValueError, LookupError) as error:
            raise UserError(f"{seal.relative_to_root(file)} is missing or damaged") from error


def train_folders(runs: Path) -> list[Path]:
    """Finished train folders of DVC, sweeps (in the order of their jobs) and single runs.

    Copies of champions are left out.
    """
    folders = [
        path.parent
        for path in runs.rglob("lineage.json")
        if not {"register", ".work"} & set(path.relative_to(runs).parts) and path.parent.suffix != ".part"
    ]
    numbers = {sweep: job_outcomes.numbers(job_outcomes.read(sweep)) for sweep in (runs / "sweeps").glob("*")}

    def order(folder: Path) -> tuple[Path, str]:
        # Numeric order: job 10 after job 2. In earlier versions the folder's name is the job number.
        number = numbers.get(folder.parent, {}).get(folder.name, folder.name)
        return folder.parent, str(number).zfill(10)

    return sorted(folders, key=order)


def evaluation_of(train: Path) -> Path | None:
    """The evaluation folder of a train folder; None if it is missing or belongs to an earlier model.

    Raises:
        UserError: the evaluation is damaged.
    """
    evaluation = train.parent.parent / "evaluate" / train.name
    hash_file = evaluation / "model.sha256"
    if not hash_file.is_file():
        return None
    seal.check(evaluation)
    return evaluation if hash_file.read_text(encoding="utf-8").strip() == seal.model_hash(train) else None
