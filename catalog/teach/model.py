"""A model that was taught by example, as it is kept on disk."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from catalog.teach.head import Head, Training
from catalog.teach.validation import Hint, Validation
from pipeline.artifacts import atomic
from pipeline.portable import DamagedError, read_json

ARRAYS, DETAILS = "training.npz", "model.json"


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
        """Changes with what the model has learned."""
        return self.samples[:12]

    def export_key(self, classes: list[str]) -> str:
        """Names an export of this model with these names of its classes."""
        return hashlib.sha256(json.dumps([self.samples, self.backbone, classes]).encode()).hexdigest()[:16]

    def with_validation(self, validation: Validation) -> "TaughtModel":
        return replace(self, validation=validation)

    def save(self, folder: Path) -> None:
        """Writes the model, atomically."""
        training = self.training
        details = {
            "samples": self.samples,
            "backbone": self.backbone,
            "classes": self.classes,
            "images": self.images,
            "seconds": self.seconds,
            "validation": asdict(self.validation) if self.validation else None,
        }
        arrays = {name: value for name, value in vars(training).items() if name != "head"}
        head = {f"head_{name}": np.asarray(value) for name, value in vars(training.head).items()}
        with atomic.replace_folder(folder) as part:
            with open(part / ARRAYS, "wb") as stream:
                np.savez(stream, **arrays, **head)
            (part / DETAILS).write_text(json.dumps(details), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TaughtModel | None":
        """The model in a folder; None if there is none, or it is damaged or of an older version."""
        try:
            details = read_json(folder / DETAILS)
            with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
                stored = {name: arrays[name] for name in arrays.files}
            own = {name[len("head_") :]: value for name, value in stored.items() if name.startswith("head_")}
            head = Head(**{name: value if value.ndim else value.item() for name, value in own.items()})
            recorded = {name: value for name, value in stored.items() if not name.startswith("head_")}
            if found := details.pop("validation"):
                hint = found.pop("hint")
                found = Validation(**found, hint=Hint(**hint) if hint else None)
            return cls(**details, training=Training(**recorded, head=head), validation=found)
        except (OSError, DamagedError, ValueError, TypeError, KeyError):  # it can be trained again
            return None
