"""Reads untrusted ONNX files; rejects references to other files, custom code and unbounded work."""

from collections.abc import Iterator
from pathlib import Path

from .errors import DamagedError

MAX_ONNX = (2 << 30) - 1  # bytes; protobuf's own limit
MAX_FIELDS = 1_000_000  # protobuf fields outside tensor data; a large transformer has 100,000

# From onnx.proto: the fields of a message that are messages, by field number ...
_MESSAGES = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {},
}
# ... and fields that no model of this project has: other files, code, or unbounded work.
_REJECTED = {
    ("model", 20): "training steps",
    ("model", 25): "custom functions",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "loops or branches",
    ("attribute", 11): "loops or branches",
    ("attribute", 22): "sparse tensors",
    ("attribute", 23): "sparse tensors",
    ("tensor", 6): "strings",
    ("tensor", 13): "data in other files",
}
# Operators of image networks. Excludes those on strings, sequences and optionals, and those whose output size
# depends on input values: ONNX Runtime allocates both outside its memory limit. The smallest models of 92 of
# timm's 98 families, those that PyTorch can export, use 52 of them.
_NAMES = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
    Cast CastLike Ceil Clip Cos Cosh Div Equal Erf Exp Floor Greater GreaterOrEqual IsInf IsNaN Less
    LessOrEqual Log Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan
    Tanh Where Xor
    Celu Dropout Elu Gelu HardSigmoid HardSwish Hardmax LeakyRelu LogSoftmax Mish PRelu Relu Selu Shrink
    Sigmoid Softmax Softplus Softsign Swish ThresholdedRelu
    AffineGrid Attention AveragePool BatchNormalization Col2Im Conv ConvInteger ConvTranspose DFT
    DeformConv Einsum GRU Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample
    GroupNormalization InstanceNormalization LRN LSTM LayerNormalization LpNormalization LpPool MatMul
    MatMulInteger MaxPool MeanVarianceNormalization QLinearConv QLinearMatMul RMSNormalization RNN
    Resize RotaryEmbedding Upsample
    DequantizeLinear DynamicQuantizeLinear QuantizeLinear
    ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare
    CenterCropPad Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather
    GatherElements GatherND Identity OneHot Pad Range Reshape ScatterElements ScatterND Shape Size Slice
    SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze
"""
OPERATORS = frozenset(_NAMES.split())
_NUMBERS = frozenset((*range(1, 8), *range(9, 14), 16))  # data types but strings, complex, packed numbers
_ALLOWED = {  # per field: the allowed values, and how the error message describes others
    ("node", 4): (frozenset(name.encode() for name in OPERATORS), "the operator {}"),
    ("node", 7): (frozenset((b"", b"ai.onnx")), "non-standard operators"),
    ("tensor", 2): (_NUMBERS, "non-numeric values"),
    ("tensor", 14): (frozenset((0,)), "data in other files"),
}


def read_onnx(file: Path) -> bytes:
    """Reads and checks an untrusted ONNX file.

    Load the returned bytes, not the path: ONNX Runtime then looks for no external files.

    Raises:
        DamagedError: the file is missing, too large or not ONNX, refers to external data, or has loops,
            functions, strings or operators outside `OPERATORS`.
    """
    try:
        if not file.is_file():
            raise DamagedError(f"{file} is missing")
        if file.stat().st_size > MAX_ONNX:
            raise DamagedError(f"{file} is larger than 2 GB")
        data = file.read_bytes()
    except OSError as error:
        raise DamagedError(f"{file} can't be read ({error.strerror})") from error
    fields_left = MAX_FIELDS
    pending = [("model", memoryview(data))]
    graphs = 0
    try:
        while pending:
            kind, message = pending.pop()
            for number, value in _fields(message):
                fields_left -= 1
                if not fields_left:
                    raise DamagedError(f"{file} has more than {MAX_FIELDS:,} fields")
                if wrong := _rejection(kind, number, value):
                    raise DamagedError(f"{file} has {wrong}, which no model of this project has; not loaded")
                if number in _MESSAGES[kind] and isinstance(value, memoryview):
                    pending.append((_MESSAGES[kind][number], value))
                    graphs += _MESSAGES[kind][number] == "graph"
    except (IndexError, ValueError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{file} is not an ONNX file") from error
    if not graphs:
        raise DamagedError(f"{file} is not an ONNX file")
    return data


def _rejection(kind: str, number: int, value: int | memoryview) -> str | None:
    """Describes why a field of an ONNX message is rejected; None if it is accepted."""
    if (kind, number) in _REJECTED:
        return _REJECTED[kind, number]
    if (kind, number) == ("node", 5) and isinstance(value, memoryview):
        # Both are read together, since the attribute's name determines the meaning of its value.
        parts = list(_fields(value))
        names = [data for part, data in parts if part == 1]
        to_string = b"to" in names and any(part == 3 and data not in _NUMBERS for part, data in parts)
        return "strings" if to_string or b"value_string" in names or b"value_strings" in names else None
    allowed, description = _ALLOWED.get((kind, number), (None, None))
    data = bytes(value) if isinstance(value, memoryview) else value
    return description.format(str(data)[1:40]) if allowed is not None and data not in allowed else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the number and value of each field of a protobuf message; fixed-length values are given as 0.

    Raises:
        IndexError: the message is truncated.
        ValueError: it is not a valid message.
    """
    index, end = 0, len(message)

    def varint() -> int:
        nonlocal index
        value = 0
        for shift in range(0, 70, 7):
            byte = message[index]
            index += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("unterminated varint")

    while index < end:
        tag = varint()
        if tag >= 1 << 32:  # protobuf uses the lower 32 bits and would read another field
            raise ValueError("field number too large")
        number, wire_type = divmod(tag, 8)
        value: int | memoryview = 0
        if wire_type == 0:
            value = varint()
        elif wire_type in (1, 5):
            index += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            length = varint()
            value = message[index : index + length]
            index += length
        else:
            raise ValueError("protobuf groups, which ONNX does not use")
        if index > end:
            raise IndexError("truncated")
        yield number, value
