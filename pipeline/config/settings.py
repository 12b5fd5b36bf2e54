"""The schema of ``conf/``: type and range of every key, validated once after composing.

A new key of ``conf/`` needs a field here (`tests/test_settings.py` compares the two). Arguments of other
libraries are only required to be plain values: the network checks ``model.net``, and albumentations checks
``augment.transforms``.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline import portable
from pipeline.sources.kinds import KINDS

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
_STRICT = Field(strict=True)  # no 1.0, "1" or true for 1

# Default of keys that may be omitted; an explicit null is rejected unless the type allows None.
OPTIONAL: Any = None

Text = Annotated[str, Field(strict=True, min_length=1)]
# As in `pipeline.portable` model cards, so that a bad name fails before training rather than after it.
_NAME = Field(strict=True, pattern=r"^\w[\w.-]{0,99}$", description="a name of letters, digits and _.-")
Name = Annotated[str, _NAME]
Identifier = Annotated[str, Field(strict=True, pattern=r"^\w{1,50}$", description="letters, digits and _")]
Flag = Annotated[bool, _STRICT]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]  # the range of numpy and Lightning
Pixels = Annotated[int, Field(strict=True, ge=8, le=4096)]
InputSize = Annotated[int, Field(strict=True, ge=8, le=1024)]  # more does not fit into memory
Epochs = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Count = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Positive = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Batches = Annotated[int, Field(strict=True, ge=1)]
Duration = Annotated[str, Field(strict=True, pattern=r"\d{2}:\d{2}:\d{2}:\d{2}")]
Threads = Annotated[int, Field(strict=True, ge=1, le=1024)]
Workers = Annotated[int, Field(strict=True, ge=0, le=256)]
Bits = Annotated[int, Field(strict=True, ge=0, le=256)]  # of a perceptual hash
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
InnerShare = Annotated[float, Field(strict=True, gt=0, lt=1)]
BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
Factor = Annotated[float, Field(strict=True, gt=0, le=1)]
Scale = Annotated[float, Field(strict=True, gt=0, le=2)]
Above0 = Annotated[float, Field(strict=True, gt=0)]
Mixing = Annotated[float, Field(strict=True, ge=0, le=1000)]  # of a Beta distribution; at 1000 near 0.5
NotBelow0 = Annotated[float, Field(strict=True, ge=0)]
_PER_CHANNEL = Field(min_length=3, max_length=3)
Mean = Annotated[list[Share], _PER_CHANNEL]
# The same minima as in a model card, so that bad values fail before training rather than after it.
CropShare = Annotated[float, Field(strict=True, ge=portable.LEAST_CROP, le=1)]
_Deviation = Annotated[float, Field(strict=True, ge=portable.LEAST_DEVIATION, le=1)]
Deviation = Annotated[list[_Deviation], _PER_CHANNEL]


@dataclass(config=_CONFIG)
class PublishedFile:
    name: Text
    urls: Annotated[list[Text], Field(min_length=1)]
    bytes: Annotated[int, Field(strict=True, ge=1)] | None
    hash: Annotated[str, Field(strict=True, pattern="^[a-z0-9]+:[0-9a-f]+$")] | None


@dataclass(config=_CONFIG)
class Source:
    kind: Literal[*KINDS]
    files: Annotated[list[PublishedFile], Field(min_length=1)] = OPTIONAL
    rebuild: Text = OPTIONAL
    per_class: Positive = OPTIONAL
    pictures: Positive = OPTIONAL
    seed: Seed = OPTIONAL


@dataclass(config=_CONFIG)
class Data:
    name: Name
    task: Literal["single_label", "multi_label"]
    max_side: Pixels
    side: InputSize
    epochs: Epochs
    cutmix: NotBelow0
    outliers: Share
    drawings: Flag
    licence: Text
    source: Source


@dataclass(config=_CONFIG)
class Augment:
    transforms: list[Annotated[dict[str, dict[str, Any] | None], Field(min_length=1, max_length=1)]]
    mixup: Mixing
    cutmix: Mixing


@dataclass(config=_CONFIG)
class Input:
    size: InputSize | None
    interpolation: Literal["bilinear", "bicubic"] | None
    crop: Literal["squash", "center"]
    crop_pct: CropShare | None
    mean: Mean | None
    std: Deviation | None


@dataclass(config=_CONFIG)
class Model:
    name: Name
    net: dict[str, Any]
    input: Input
    start: Text | None
    head: Literal["probe", "random"]
    epochs: Epochs
    balance: Literal["none", "weights", "sampler"]
    batch_size: Annotated[int, Field(strict=True, ge=1, le=65536)]
    channels_last: Flag
    flip: Flag = OPTIONAL
    strengths: Annotated[list[Above0], Field(min_length=1)] = OPTIONAL
    shares: Annotated[list[Scale], Field(min_length=1)] = OPTIONAL
    patience: Count = OPTIONAL
    lr: Above0 = OPTIONAL
    weight_decay: NotBelow0 = OPTIONAL
    warmup: Share = OPTIONAL
    label_smoothing: BelowOne = OPTIONAL
    outliers: Share = OPTIONAL
    ema: BelowOne = OPTIONAL
    layer_decay: Factor = OPTIONAL
    frozen: Count = OPTIONAL
    freeze_batchnorm: Flag = OPTIONAL
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
    deterministic: Flag
    num_nodes: Batches | None = OPTIONAL
    max_time: Duration | None = OPTIONAL
    min_epochs: Batches | None = OPTIONAL
    fast_dev_run: Flag | Batches | None = OPTIONAL
    limit_train_batches: Batches | Factor | None = OPTIONAL
    limit_val_batches: Batches | Factor | None = OPTIONAL
    overfit_batches: Batches | Factor | None = OPTIONAL
    accumulate_grad_batches: Batches | None = OPTIONAL
    gradient_clip_val: Above0 | None = OPTIONAL
    gradient_clip_algorithm: Literal["norm", "value"] | None = OPTIONAL
    benchmark: Flag | None = OPTIONAL
    detect_anomaly: Flag | None = OPTIONAL
    sync_batchnorm: Flag | None = OPTIONAL
    profiler: Literal["simple", "advanced"] | None = OPTIONAL
    enable_progress_bar: Flag | None = OPTIONAL
    log_every_n_steps: Batches | None = OPTIONAL
    enable_model_summary: Flag | None = OPTIONAL


@dataclass(config=_CONFIG)
class Runtime:
    threads: Threads
    workers: Workers
    features: Literal["onnx", "torch"]
    checkpoint_minutes: NotBelow0


@dataclass(config=_CONFIG)
class Fetch:
    mirror: Text | None
    path: Text


@dataclass(config=_CONFIG)
class PackSettings:
    max_side: Pixels
    classes: Literal["folder", "breed"]


@dataclass(config=_CONFIG)
class Split:
    seed: Seed
    val: InnerShare
    test: InnerShare
    official: Flag
    distance: Bits


@dataclass(config=_CONFIG)
class Unsure:
    answers_right: BelowOne
    others_named: Share


@dataclass(config=_CONFIG)
class Register:
    significance: InnerShare


@dataclass(config=_CONFIG)
class Settings:
    """A complete configuration, without Hydra's own node."""

    data: Data
    augment: Augment
    model: Model
    trainer: Trainer
    runtime: Runtime
    models: Annotated[list[Text], Field(min_length=1)]
    seed: Seed
    out: Text
    fetch: Fetch
    pack: PackSettings
    split: Split
    unsure: Unsure
    register: Register
    callbacks: dict[Identifier, dict[str, Any]] = OPTIONAL
    metrics: dict[Identifier, dict[str, Any]] = OPTIONAL
