"""From an image's bytes to class names, with numpy, Pillow and onnxruntime alone.

A registered model carries this package along (MLflow's ``loader_module``), so it imports nothing else of the
project, and its own modules by relative names. The project imports *it*: packing, training and evaluation
read and size images with these very functions, which is why every place gives the same answer.
"""

from .card import (
    LEAST_CROP,
    LEAST_DEVIATION,
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
from .model import OnnxClassifier
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
    sums,
    tell_extra,
)


def _load_pyfunc(path: str) -> OnnxClassifier:
    """MLflow's entry point."""
    return OnnxClassifier(path)
