"""What a model learns from a project's samples."""

from dataclasses import dataclass

import numpy as np

from catalog.feature_store import FeatureStore
from catalog.store.samples import Sample
from catalog.teach import validation
from catalog.teach.model import TaughtModel, fingerprint
from catalog.teach.sample_features import SampleFeatures


class ChangedError(Exception):
    """The samples of a project have changed while they were collected."""


@dataclass(frozen=True)
class TrainingData:
    """What a model learns.

    Attributes:
        samples: hash of images and classes, see `fingerprint`.
        backbone: key of the network that has computed the features.
        classes: class ids.
        x: features, N×C.
        y: index of each image's class in `classes`, N.
        groups: group number of each image, N.
    """

    samples: str
    backbone: str
    classes: list[int]
    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def is_of(self, model: TaughtModel) -> bool:
        """Whether a model has learned this."""
        known = model.samples, model.backbone, model.classes
        return known == (self.samples, self.backbone, self.classes)

    def is_from(self, found: list[Sample], backbone: str) -> bool:
        """Whether it was collected from these samples, with features of this network."""
        return (self.samples, self.backbone, self.classes) == (_hash(found), backbone, _classes(found))

    @classmethod
    def collect(
        cls, found: list[Sample], backbone: str, features: SampleFeatures | FeatureStore
    ) -> "TrainingData":
        """Collects what a model learns from these samples.

        Raises:
            ChangedError: one of them was erased meanwhile.
        """
        classes = _classes(found)
        try:
            x = features.get([each.sha256 for each in found])
        except KeyError:
            raise ChangedError from None
        y = np.array([classes.index(each.class_id) for each in found], np.int64)
        groups = validation.groups_of(x, [each.burst for each in found])
        return cls(_hash(found), backbone, classes, x, y, groups)


def _hash(found: list[Sample]) -> str:
    return fingerprint((each.sha256, each.class_id, each.burst) for each in found)


def _classes(found: list[Sample]) -> list[int]:
    return sorted({each.class_id for each in found})
