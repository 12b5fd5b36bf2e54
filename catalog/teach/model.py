"""A model that was taught by example, as it is kept on disk."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from catalog.teach.head import Head, Training
from catalog.teach.validation import Hint, Validation
from pipeline.artifacts import atomic


def fingerprint(found: Iterable[tuple[str, int, str | None]]) -> str:
    """Hash of what a model learns; equal for a copy of the project, whose classes have other ids.

    Args:
        found: hash, class id and recording of each image.
    """
    found = list(found)
    index = {class_id: number for number, class_id in enumerate(sorted({each[1] for each in found}))}
    digest = hashlib.sha256()
    for sha256, class_id, burst in found:
        digest.update(f"{sha256} {index[class_id]} {burst}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class TaughtModel:
    """A head with the record of its training.

    Attributes:
        samples: hash of the images and classes that it has learned, see `fingerprint`.
        backbone: key of the backbone whose features it takes.
        classes: class ids, in the order of the head's outputs.
        images: number of images of each class.
        seconds: duration of the training, without the features.
        training: the recorded steps and the head.
        validation: None until it is computed.
    """

    samples: str
    backbone: str
    classes: list[int]
    images: list[int]
    seconds: float
    training: Training
    validation: Validation | None = None

    @property
    def head(self) -> Head:
        return self.training.head

    @property
    def version(self) -> str:
        """Names the model on pages; another one has learned something else."""
        return self.samples[:12]

    def export_key(self, classes: list[str]) -> str:
        """Names an export of this model with these names of its classes."""
        return hashlib.sha256(json.dumps([self.samples, self.backbone, classes]).encode()).hexdigest()[:16]

    def with_validation(self, validation: Validation) -> "TaughtModel":
        return replace(self, validation=validation)

    def save(self, file: Path) -> None:
        """Writes the model to one file, atomically: the helper reads it at any time."""
        details = {
            "samples": self.samples,
            "backbone": self.backbone,
            "classes": self.classes,
            "images": self.images,
            "seconds": self.seconds,
            "validation": asdict(self.validation) if self.validation else None,
        }
        arrays = {name: value for name, value in vars(self.training).items() if name != "head"}
        head = {f"head_{name}": np.asarray(value) for name, value in vars(self.head).items()}
        with atomic.replace_file(file) as part, open(part, "wb") as stream:
            np.savez(stream, details=np.array(json.dumps(details)), **arrays, **head)

    @classmethod
    def load(cls, file: Path) -> "TaughtModel | None":
        """The model in a file; None if there is none, or it is damaged or of an older version."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                stored = {name: arrays[name] for name in arrays.files}
            details = json.loads(stored.pop("details").item())
            own = {name[len("head_") :]: value for name, value in stored.items() if name.startswith("head_")}
            head = Head(**{name: value if value.ndim else value.item() for name, value in own.items()})
            recorded = {name: value for name, value in stored.items() if not name.startswith("head_")}
            recorded["none_level"] = recorded["none_level"].item()
            if found := details.pop("validation"):
                hint = found.pop("hint")
                found = Validation(**found, hint=Hint(**hint) if hint else None)
            return cls(**details, training=Training(**recorded, head=head), validation=found)
        except Exception:  # missing, cut off or of another format: numpy raises many types; train again
            return None

    @staticmethod
    def delete(file: Path) -> None:
        """Deletes a stored model."""
        file.unlink(missing_ok=True)
