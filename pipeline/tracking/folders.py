"""The folders that train and evaluate leave: which there are, what they hold, what they are known by."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline import foreign, seal
from pipeline.config import ROOT
from pipeline.foreign import json_object as read
from pipeline.portable import ModelCard
from pipeline.provenance import Provenance
from pipeline.tracking.naming import run_name


@dataclass(frozen=True)
class Trained:
    """What a train folder tells of a model: its card, its configuration, its lineage, its figures."""

    folder: Path
    card: ModelCard
    settings: dict
    lineage: dict
    metrics: dict

    @classmethod
    def open(cls, folder: Path) -> "Trained":
        """Reads the files.

        Raises:
            UserError: one is missing, damaged or of an older form.
        """
        seal.check(folder)
        return cls(
            folder,
            card=foreign.card(folder),
            settings=foreign.settings(folder),
            lineage=foreign.lineage(folder, "data"),
            metrics=read(folder / "metrics.json", "val/top1"),
        )

    @functools.cached_property
    def provenance(self) -> Provenance:
        """The commit that it was trained from."""
        return Provenance.of(self.folder)

    @property
    def name(self) -> str:
        """Of its run: the overrides of a sweep's job; of any other the model and what differs."""
        return job_names(self.sweep).get(_key(self.settings)) or run_name(self.settings, self.folder)

    @property
    def sweep(self) -> str | None:
        """Name of the sweep that it was a job of."""
        return self.folder.parent.name if self.folder.parent.parent == ROOT / "runs/sweeps" else None


def _key(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def job_names(sweep: str | None) -> dict[str, str]:
    """What a sweep's jobs are called, by the hash of their settings."""
    file = ROOT / "runs/sweeps" / str(sweep) / "jobs.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if sweep else {}
    except (OSError, ValueError):
        return {}


def name_job(sweep: str, settings: dict, name: str) -> None:
    """Keeps a job's overrides, which its folder does not hold, beside the folders of the sweep."""
    file = ROOT / "runs/sweeps" / sweep / "jobs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = job_names(sweep) | {_key(settings): name}
    file.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def model_hash(folder: Path) -> str:
    """Of a train folder's weights and card (classes, sizing): what a registered version is known by."""
    whole = hashlib.sha256((folder / "weights.safetensors").read_bytes())
    whole.update((folder / "model.json").read_bytes())
    return whole.hexdigest()


def trained(runs: Path) -> list[Path]:
    """Finished train folders of DVC, sweeps and single runs; no champion's copy, nothing cut short."""
    folders = (path.parent for path in runs.rglob("lineage.json"))
    left_out = {"register", ".work"}
    whole = (
        folder
        for folder in folders
        if not left_out & set(folder.relative_to(runs).parts) and folder.suffix != ".part"
    )
    # A sweep's jobs are numbered: the tenth does not come before the second.
    return sorted(whole, key=lambda folder: (folder.parent, folder.name.zfill(8)))


def judged(folder: Path) -> Path | None:
    """The evaluation of a train folder, unless it is of a former model there.

    Raises:
        UserError: it is damaged.
    """
    evaluation = folder.parent.parent / "evaluate" / folder.name
    known = evaluation / "model.sha256"
    if not known.is_file():
        return None
    seal.check(evaluation)
    return evaluation if known.read_text(encoding="utf-8").strip() == model_hash(folder) else None
