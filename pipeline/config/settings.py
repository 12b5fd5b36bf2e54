"""The schema of ``conf/``: type and range of every key, validated once after composing.

Comments in ``conf/`` say what each key means. A new key needs a field here (`tests/test_settings.py` compares
the two), a renamed key also an entry in `renamed`. Arguments of other libraries must only be plain values:
the network checks ``model.net``, and albumentations checks ``augment.transforms``.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline import portable
from pipeline.sources.kinds import KINDS

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

# Default of keys that may be omitted; an explicit null is rejected unless the type allows None.
OPTIONAL: Any = None

NonEmptyStr = Annotated[str, Field(strict=True, min_length=1)]
# As in a model card, so that a bad name fails before training rather than after it.
_NAME = Field(strict=True, pattern=r"^\w[\w.-]{0,99}$", description="a name of letters, digits and _.-")
Name = Annotated[str, _NAME]
Identifier = Annotated[str, Field(strict=True, pattern=r"^\w{1,50}$", description="letters, digits and _")]
Bool = Annotated[bool, Field(strict=True)]  # strict types don't convert 1.0, "1" or true to 1
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]  # the range of numpy and Lightning
Pixels = Annotated[int, Field(strict=True, ge=8, le=4096)]
InputSize = Annotated[int, Field(strict=True, ge=8, le=1024)]  # memory limits it
Epochs = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
ImageCount = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
Duration = Annotated[str, Field(strict=True, pattern=r"\d{2}:\d{2}:\d{2}:\d{2}")]
Threads = Annotated[int, Field(strict=True, ge=1, le=1024)]
Workers = Annotated[int, Field(strict=True, ge=0, le=256)]
Bits = Annotated[int, Field(strict=True, ge=0, le=256)]  # of a perceptual hash
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
OpenFraction = Annotated[float, Field(strict=True, gt=0, lt=1)]
HalfOpenFraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(strict=True, gt=0, le=1)]
Scale = Annotated[float, Field(strict=True, gt=0, le=2)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0)]
BetaParameter = Annotated[float, Field(strict=True, ge=0, le=1000)]  # at 1000, samples are close to 0.5
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0)]
_PER_CHANNEL = Field(min_length=3, max_length=3)
Mean = Annotated[list[Fraction], _PER_CHANNEL]
# The same minima as in a model card, for the same reason.
CropFraction = Annotated[float, Field(strict=True, ge=portable.MIN_CROP_PCT, le=1)]
_ChannelStd = Annotated[float, Field(strict=True, ge=portable.MIN_STD, le=1)]
Std = Annotated[list[_ChannelStd], _PER_CHANNEL]


@dataclass(config=_CONFIG)
class PublishedFile:
    name: NonEmptyStr
    urls: Annotated[list[NonEmptyStr], Field(min_length=1)]
    bytes: Annotated[int, Field(strict=True, ge=1)] | None
    hash: Annotated[str, Field(strict=True, pattern="^[a-z0-9]+:[0-9a-f]+$")] | None


@dataclass(config=_CONFIG)
class Source:
    kind: Literal[*KINDS]
    files: Annotated[list[PublishedFile], Field(min_length=1)] = OPTIONAL
    rebuild: NonEmptyStr = OPTIONAL
    per_class: ImageCount = OPTIONAL
    pictures: ImageCount = OPTIONAL
    seed: Seed = OPTIONAL


@dataclass(config=_CONFIG)
class Data:
    name: Name
    task: Literal["single_label", "multi_label"]
    max_side: Pixels
    side: InputSize
    epochs: Epochs
    cutmix: NonNegativeFloat
    outliers: Fraction
    drawings: Bool
    licence: NonEmptyStr
    source: Source


@dataclass(config=_CONFIG)
class Augment:
    transforms: list[Annotated[dict[str, dict[str, Any] | None], Field(min_length=1, max_length=1)]]
    mixup: BetaParameter
    cutmix: BetaParameter


@dataclass(config=_CONFIG)
class Input:
    size: InputSize | None
    interpolation: Literal["bilinear", "bicubic"] | None
    crop: Literal["squash", "center"]
    crop_pct: CropFraction | None
    mean: Mean | None
    std: Std | None


@dataclass(config=_CONFIG)
class Model:
    name: Name
    net: dict[str, Any]
    input: Input
    start: NonEmptyStr | None
    head: Literal["probe", "random"]
    epochs: Epochs
    balance: Literal["none", "weights", "sampler"]
    batch_size: Annotated[int, Field(strict=True, ge=1, le=65536)]
    channels_last: Bool
    flip: Bool = OPTIONAL
    inverse_regularization: Annotated[list[PositiveFloat], Field(min_length=1)] = OPTIONAL
    shares: Annotated[list[Scale], Field(min_length=1)] = OPTIONAL
    patience: NonNegativeInt = OPTIONAL
    lr: PositiveFloat = OPTIONAL
    weight_decay: NonNegativeFloat = OPTIONAL
    warmup: Fraction = OPTIONAL
    label_smoothing: HalfOpenFraction = OPTIONAL
    outliers: Fraction = OPTIONAL
    ema: HalfOpenFraction = OPTIONAL
    layer_decay: PositiveFraction = OPTIONAL
    frozen: NonNegativeInt = OPTIONAL
    freeze_batchnorm: Bool = OPTIONAL
    loss: dict[str, Any] = OPTIONAL


@dataclass(config=_CONFIG)
class Trainer:
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: (
        Annotated[int, Field(strict=True, ge=1, le=1024)]
        | Literal[-1, "auto"]
        | Annotated[list[Workers], Field(min_length=1)]
    )
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true", 16, 32, 64]
    deterministic: Bool
    num_nodes: PositiveInt | None = OPTIONAL
    max_time: Duration | None = OPTIONAL
    min_epochs: PositiveInt | None = OPTIONAL
    fast_dev_run: Bool | PositiveInt | None = OPTIONAL
    limit_train_batches: PositiveInt | PositiveFraction | None = OPTIONAL
    limit_val_batches: PositiveInt | PositiveFraction | None = OPTIONAL
    overfit_batches: PositiveInt | PositiveFraction | None = OPTIONAL
    accumulate_grad_batches: PositiveInt | None = OPTIONAL
    gradient_clip_val: PositiveFloat | None = OPTIONAL
    gradient_clip_algorithm: Literal["norm", "value"] | None = OPTIONAL
    benchmark: Bool | None = OPTIONAL
    detect_anomaly: Bool | None = OPTIONAL
    sync_batchnorm: Bool | None = OPTIONAL
    profiler: Literal["simple", "advanced"] | None = OPTIONAL
    enable_progress_bar: Bool | None = OPTIONAL
    log_every_n_steps: PositiveInt | None = OPTIONAL
    enable_model_summary: Bool | None = OPTIONAL


@dataclass(config=_CONFIG)
class Runtime:
    threads: Threads
    workers: Workers
    features: Literal["onnx", "torch"]
    checkpoint_minutes: NonNegativeFloat


@dataclass(config=_CONFIG)
class Fetch:
    mirror: NonEmptyStr | None
    path: NonEmptyStr


@dataclass(config=_CONFIG)
class PackSettings:
    max_side: Pixels
    classes: Literal["folder", "breed"]


@dataclass(config=_CONFIG)
class Split:
    seed: Seed
    val: OpenFraction
    test: OpenFraction
    official: Bool
    distance: Bits


@dataclass(config=_CONFIG)
class Unsure:
    min_precision: HalfOpenFraction
    max_ood_rate: Fraction


@dataclass(config=_CONFIG)
class Register:
    significance: OpenFraction


@dataclass(config=_CONFIG)
class Settings:
    """A complete configuration, without Hydra's own node."""

    data: Data
    augment: Augment
    model: Model
    trainer: Trainer
    runtime: Runtime
    models: Annotated[list[NonEmptyStr], Field(min_length=1)]
    seed: Seed
    out: NonEmptyStr
    fetch: Fetch
    pack: PackSettings
    split: Split
    unsure: Unsure
    register: Register
    callbacks: dict[Identifier, dict[str, Any]] = OPTIONAL
    metrics: dict[Identifier, dict[str, Any]] = OPTIONAL
