"""What a taught model says of an image, and where it looks."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from catalog.backbone import Exported
from catalog.language import _
from catalog.teach.model import TaughtModel
from pipeline.common.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What a model says of an image.

    Attributes:
        classes: class ids.
        probabilities: of each class, in their order.
        none: probability that it is none of the classes; None if the model has no such output.
        is_none: whether the image is none of them.
        milliseconds: for decoding the image and the prediction.
    """

    classes: list[int]
    probabilities: list[float]
    none: float | None
    is_none: bool
    milliseconds: float


def answer(model: TaughtModel, exported: Exported, picture: Callable[[], np.ndarray]) -> Answer:
    """A model's answer.

    Args:
        model: the model.
        exported: its backbone.
        picture: decodes the image; its time counts.
    """
    start = time.perf_counter()
    probabilities = model.head.probabilities(exported.network(picture()[None]))
    count = len(model.classes)
    return Answer(
        classes=model.classes,
        probabilities=probabilities[0, :count].tolist(),
        none=float(probabilities[0, count]) if probabilities.shape[1] > count else None,
        is_none=bool(model.head.is_none(probabilities)[0]),
        milliseconds=1000 * (time.perf_counter() - start),
    )


def evidence(model: TaughtModel, exported: Exported, picture: np.ndarray, class_id: int) -> np.ndarray:
    """How much each place of an image speaks for a class, against the average of all, H×W float32.

    The features are means over places, and the head is linear: the class's logit is the mean over this map
    (class activation mapping, Zhou et al. 2016).

    Raises:
        UserError: the model doesn't know the class.
    """
    if class_id not in model.classes:
        raise UserError(_("The model has not learned this class yet; press Train."))
    (last,) = exported.network.layers(picture, exported.layers[-1:])
    weight = model.head.weight[: len(model.classes)]
    direction = weight[model.classes.index(class_id)] - weight.mean(axis=0)
    return np.einsum("c,chw->hw", direction, last)
