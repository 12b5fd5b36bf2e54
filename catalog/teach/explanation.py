"""The parts of a taught model as pages show them: sizes, the recorded training, an image on its way."""

import base64
from dataclasses import dataclass

import numpy as np

from catalog.backbone import Exported, Layer
from catalog.teach import descent
from catalog.teach.model import TaughtModel

SHOWN = 10  # classes whose weights and products are sent
CHANNELS = 8  # pictures of each layer
LARGEST = 56  # pixels of a picture's side; larger channels are shrunk
HALF = 127  # steps of a quantised number on each side of zero
STRONG = 98  # percentile of the weights that gets the strongest colour


@dataclass(frozen=True)
class Parts:
    """Sizes of a model.

    Attributes:
        layers: of the backbone, largest first.
        size: side of the image that the backbone takes.
        features: numbers that the backbone computes from an image.
        classes: outputs of the head that are trained.
        has_none: whether it has another output, "none of these", which is computed, not trained.
        frozen: parameters of the backbone.
        trained: parameters of the classes.
        changed: how many of them any step changed.
        computed: parameters of "none of these".
        images: that were learned.
        steps: of the training.
        rate: step size of the training.
        momentum: share of the speed that each step keeps.
        right: share of the images that are right at the start.
        checksum: of the backbone's weights, recorded when the model was trained.
        checksum_now: of those that answer now.
    """

    layers: list[Layer]
    size: int
    features: int
    classes: int
    has_none: bool
    frozen: int
    trained: int
    changed: int
    computed: int
    images: int
    steps: int
    rate: float
    momentum: float
    right: float
    checksum: str
    checksum_now: str

    @property
    def new(self) -> int:
        """Parameters of the head."""
        return self.trained + self.computed


@dataclass(frozen=True)
class Steps:
    """A recorded training, with the weights of the first `SHOWN` classes.

    Attributes:
        version: of the model, as in the project's state.
        classes: their ids.
        features: weights of a class.
        weights: bytes of steps×classes×features in base64: 128 is zero, 1 and 255 are ∓`limit`.
        limit: the largest absolute weight.
        strong: an absolute weight that few exceed, for the strongest colour.
        loss: of each step.
        right: share of the training images that get their class, of each step.
    """

    version: str
    classes: list[int]
    features: int
    weights: str
    limit: float
    strong: float
    loss: list[float]
    right: list[float]


@dataclass(frozen=True)
class LayerPictures:
    """A layer's channels with the most contrast.

    Attributes:
        side: of its channels.
        channels: number of all of them.
        shown: numbers of those that are shown.
        picture_side: of the pictures.
        pictures: bytes of shown×picture_side×picture_side in base64; each channel's largest value is 255.
    """

    side: int
    channels: int
    shown: list[int]
    picture_side: int
    pictures: str


@dataclass(frozen=True)
class Score:
    """How an output of the head gets its score.

    Attributes:
        class_id: None for the output "none of these".
        products: bytes of the features times the weights, in base64, quantised by `Way.product_limit`.
        total: their sum.
        bias: is added to it.
        score: the result.
        probability: by softmax over all outputs.
    """

    class_id: int | None
    products: str
    total: float
    bias: float
    score: float
    probability: float


@dataclass(frozen=True)
class Way:
    """An image's way through a model.

    Attributes:
        version: of the model.
        layers: largest first.
        features: bytes in base64; 255 is `feature_limit`.
        feature_limit: the largest feature.
        product_limit: the largest absolute product.
        product_strong: an absolute product that few exceed.
        scores: of the likeliest `SHOWN` outputs, in the head's order.
        classes: ids of all classes.
        probabilities: of all classes.
        exponentials: sum of e^score of all outputs.
        is_none: whether the image is none of the classes.
    """

    version: str
    layers: list[LayerPictures]
    features: str
    feature_limit: float
    product_limit: float
    product_strong: float
    scores: list[Score]
    classes: list[int]
    probabilities: list[float]
    exponentials: float
    is_none: bool


def parts(model: TaughtModel, exported: Exported) -> Parts:
    """The sizes of a model, and what its training changed."""
    weights, biases, count = model.training.weights, model.training.biases, len(model.classes)
    _steps, outputs, features = weights.shape
    changed = sum(
        np.count_nonzero((each != each[:1]).any(axis=0)) for each in (weights[:, :count], biases[:, :count])
    )
    y = np.repeat(np.arange(count), model.images)
    return Parts(
        layers=exported.layers,
        size=exported.card.input.size,
        features=features,
        classes=count,
        has_none=model.head.has_none,
        frozen=exported.parameters,
        trained=count * (features + 1),
        changed=int(changed),
        computed=(outputs - count) * (features + 1),
        images=sum(model.images),
        steps=len(weights) - 1,
        rate=round(float(descent.share_of(y, count) * descent.RATE), 2),
        momentum=descent.MOMENTUM,
        right=float(model.training.right[0]),
        checksum=model.backbone,
        checksum_now=exported.key,
    )


def steps(model: TaughtModel) -> Steps:
    """The recorded training of a model."""
    training = model.training
    count = min(len(model.classes), SHOWN)
    weights = training.weights[:, :count]
    limit = _limit(weights)
    return Steps(
        version=model.version,
        classes=model.classes[:count],
        features=weights.shape[2],
        weights=_signed(weights, limit),
        limit=limit,
        strong=_strong(weights[-1], limit),
        loss=training.loss.tolist(),
        right=training.right.tolist(),
    )


def way(model: TaughtModel, exported: Exported, picture: np.ndarray) -> Way:
    """What happens to an image on its way to the answer.

    Args:
        model: of the teach page.
        exported: the backbone that it was trained on.
        picture: as the backbone takes it, uint8 S×S×3.
    """
    head, network = model.head, exported.network
    channels = network.layers(picture, exported.layers)
    features = network(picture[None])
    probabilities = head.probabilities(features)
    products = head.weight * features
    totals = products.sum(axis=1)
    scores = totals + head.bias
    shown = np.sort(np.argsort(-scores, kind="stable")[:SHOWN])
    limit = _limit(products[shown])
    feature_limit = _limit(features)
    ids = dict(enumerate(model.classes))
    return Way(
        version=model.version,
        layers=[_pictures(layer, values) for layer, values in zip(exported.layers, channels, strict=True)],
        features=_base64(np.rint(features / feature_limit * 255)),
        feature_limit=feature_limit,
        product_limit=limit,
        product_strong=_strong(products[shown], limit),
        scores=[
            Score(
                class_id=ids.get(number),
                products=_signed(products[number], limit),
                total=float(totals[number]),
                bias=float(head.bias[number]),
                score=float(scores[number]),
                probability=float(probabilities[0, number]),
            )
            for number in shown.tolist()
        ],
        classes=model.classes,
        probabilities=probabilities[0, : len(model.classes)].tolist(),
        exponentials=float(np.exp(np.minimum(scores, 700.0, dtype=np.float64)).sum()),
        is_none=bool(head.is_none(probabilities)[0]),
    )


def dequantised(text: str, shape: tuple[int, ...], limit: float) -> np.ndarray:
    """Numbers that were quantised by `Steps` or `Score`, up to limit / (2 · HALF)."""
    found = np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)
    return (found.astype(np.float32) - HALF - 1) / HALF * limit


def _pictures(layer: Layer, values: np.ndarray) -> LayerPictures:
    """The channels with the most contrast, from values channels×side×side that are not negative."""
    shown = np.argsort(-values.std(axis=(1, 2)), kind="stable")[:CHANNELS]
    found = values[shown]
    factor = max(1, -(-layer.side // LARGEST))
    if factor > 1:
        side = layer.side // factor
        found = found[:, : side * factor, : side * factor]
        found = found.reshape(len(shown), side, factor, side, factor).mean(axis=(2, 4))
    largest = np.maximum(found.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    pixels = np.rint(np.clip(found / largest, 0, 1) * 255)
    return LayerPictures(layer.side, layer.channels, shown.tolist(), found.shape[1], _base64(pixels))


def _limit(values: np.ndarray) -> float:
    return float(np.abs(values).max()) or 1.0


def _strong(values: np.ndarray, limit: float) -> float:
    return float(np.percentile(np.abs(values), STRONG)) or limit


def _signed(values: np.ndarray, limit: float) -> str:
    return _base64(np.rint(values / limit * HALF) + HALF + 1)


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()
