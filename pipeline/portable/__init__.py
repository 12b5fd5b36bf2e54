"""Inference from image bytes to class names with only numpy, Pillow and onnxruntime.

A registered model ships this package (MLflow's ``loader_module``), so it imports nothing else of the project
and uses relative imports within. Packing, training and evaluation import it: they decode and resize images
with the same functions, so predictions agree everywhere.
"""

from .card import (
    MIN_CROP_PCT,
    MIN_STD,
    NAME,
    ModelCard,
    Preprocessing,
    is_number,
    is_plain,
    read_card,
    read_json,
)
from .errors import DamagedError, UnreadableError, reason
from .images import FORMATS, MAX_PIXELS, read_picture
from .model import OnnxClassifier, within
from .onnx_file import OPERATORS, read_onnx
from .resizing import shrink, to_square
from .seals import (
    READ,
    SUMS,
    damaged,
    differing,
    entries,
    extra,
    is_litter,
    is_sealable,
    sealed,
    sha256_of,
    sums,
    warn_of_unsealed,
)


def _load_pyfunc(path: str) -> OnnxClassifier:
    """MLflow's entry point for ``loader_module``."""
    return OnnxClassifier(path)
