"""An ONNX file that a stranger may have written, refused where it could reach beyond itself."""

from collections.abc import Iterator
from pathlib import Path

from .errors import DamagedError

MAX_ONNX = (2 << 30) - 1  # bytes; protobuf's own limit
MAX_FIELDS = 1_000_000  # of an ONNX file outside its tensors; a large transformer has 100,000

# Of ONNX's own description (onnx.proto): the field numbers under which a message holds another one ...
_MESSAGES = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {},
}
# ... and what no model of this project has: ways to other files, to code, and to work without an end.
_REFUSED = {
    ("model", 20): "steps of a training",
    ("model", 25): "functions of its own",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "loops or branches",
    ("attribute", 11): "loops or branches",
    ("attribute", 22): "sparse tensors",
    ("attribute", 23): "sparse tensors",
    ("tensor", 6): "texts",
    ("tensor", 13): "data in other files",
}
# Operators of networks for pictures. Left out are those on texts, sequences and optional values, and those
# whose results are as long as their input's values say: ONNX Runtime keeps both outside the memory it bounds.
# The smallest network of each of timm's families that PyTorch can export, 92 of 98, uses 52 of them.
OPERATORS = frozenset(
    (
        *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd"),
        *("BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Cosh"),
        *("Div", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
        *("LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow"),
        *("Reciprocal", "Round", "Sign", "Sin", "Sinh", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where"),
        "Xor",
        *("Celu", "Dropout", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "LeakyRelu"),
        *("LogSoftmax", "Mish", "PRelu", "Relu", "Selu", "Shrink", "Sigmoid", "Softmax", "Softplus"),
        *("Softsign", "Swish", "ThresholdedRelu"),
        *("AffineGrid", "Attention", "AveragePool", "BatchNormalization", "Col2Im", "Conv", "ConvInteger"),
        *("ConvTranspose", "DFT", "DeformConv", "Einsum", "GRU", "Gemm", "GlobalAveragePool"),
        *("GlobalLpPool", "GlobalMaxPool", "GridSample", "GroupNormalization", "InstanceNormalization"),
        *("LRN", "LSTM", "LayerNormalization", "LpNormalization", "LpPool", "MatMul", "MatMulInteger"),
        *("MaxPool", "MeanVarianceNormalization", "QLinearConv", "QLinearMatMul", "RMSNormalization"),
        *("RNN", "Resize", "RotaryEmbedding", "Upsample"),
        *("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
        *("ArgMax", "ArgMin", "CumSum", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        *("CenterCropPad", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike"),
        *("Flatten", "Gather", "GatherElements", "GatherND", "Identity", "OneHot", "Pad", "Range"),
        *("Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split"),
        *("Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
    )
)
_NUMBERS = frozenset((*range(1, 8), *range(9, 14), 16))  # types: all but texts, complex and packed numbers
_ALLOWED = {  # where only some values are, and what the others are
    ("node", 4): (frozenset(name.encode() for name in OPERATORS), "the operator {}"),
    ("node", 7): (frozenset((b"", b"ai.onnx")), "operators outside the standard"),
    ("tensor", 2): (_NUMBERS, "values that are no numbers"),
    ("tensor", 14): (frozenset((0,)), "data in other files"),
}


def read_onnx(file: Path) -> bytes:
    """Reads an ONNX file that a stranger may have written, and refuses what could reach beyond it.

    The bytes are to be loaded as bytes: then nothing is looked for beside the file.

    Raises:
        DamagedError: it is missing, too large, no ONNX file, keeps data in other files, or has loops,
            functions, texts or other operators than `OPERATORS`.
    """
    try:
        if not file.is_file():
            raise DamagedError(f"{file} is missing")
        if file.stat().st_size > MAX_ONNX:
            raise DamagedError(f"{file} is larger than 2 GB")
        data = file.read_bytes()
    except OSError as error:
        raise DamagedError(f"{file} can't be read ({error.strerror})") from error
    left = MAX_FIELDS
    inside = [("model", memoryview(data))]
    graphs = 0
    try:
        while inside:
            kind, message = inside.pop()
            for number, value in _fields(message):
                left -= 1
                if not left:
                    raise DamagedError(f"{file} has more than {MAX_FIELDS:,} parts")
                if wrong := _refused(kind, number, value):
                    raise DamagedError(
                        f"{file} has {wrong}; no model of this project does, so it is not loaded"
                    )
                if number in _MESSAGES[kind] and isinstance(value, memoryview):
                    inside.append((_MESSAGES[kind][number], value))
                    graphs += _MESSAGES[kind][number] == "graph"
    except (IndexError, ValueError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{file} is no ONNX file") from error
    if not graphs:
        raise DamagedError(f"{file} is no ONNX file")
    return data


def _refused(kind: str, number: int, value: int | memoryview) -> str | None:
    """What is wrong with a field of an ONNX message."""
    if (kind, number) in _REFUSED:
        return _REFUSED[kind, number]
    if (kind, number) == ("node", 5) and isinstance(value, memoryview):
        # Together: it is the name that says what the value means.
        parts = list(_fields(value))
        names = [held for part, held in parts if part == 1]
        to_text = b"to" in names and any(part == 3 and held not in _NUMBERS for part, held in parts)
        return "texts" if to_text or b"value_string" in names or b"value_strings" in names else None
    allowed, others = _ALLOWED.get((kind, number), (None, None))
    held = bytes(value) if isinstance(value, memoryview) else value
    return others.format(str(held)[1:40]) if allowed is not None and held not in allowed else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; values of fixed length are given as 0.

    Raises:
        IndexError: it ends too soon.
        ValueError: it is no such message.
    """
    place, end = 0, len(message)

    def varint() -> int:
        nonlocal place
        value = 0
        for shift in range(0, 70, 7):
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number without an end")

    while place < end:
        tag = varint()
        if tag >= 1 << 32:  # protobuf takes the lower 32 bits, and so another field than this reads
            raise ValueError("a field's number that is too large")
        number, kind = divmod(tag, 8)
        value: int | memoryview = 0
        if kind == 0:
            value = varint()
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length = varint()
            value = message[place : place + length]
            place += length
        else:
            raise ValueError("groups, which ONNX does not have")
        if place > end:
            raise IndexError("it ends too soon")
        yield number, value
