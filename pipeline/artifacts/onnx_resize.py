"""Resizing and cropping as in `pipeline.portable`, as an ONNX graph from one image to a batch of one.

On uint8, ONNX Runtime's antialiased resize gives the same bytes as Pillow (`tests/test_onnx_resize.py`); on
floats it doesn't.
"""

from typing import TYPE_CHECKING

from pipeline.common.errors import UserError
from pipeline.portable import Preprocessing

if TYPE_CHECKING:
    import onnx

# By Pillow's filter names; its other filters have no ONNX counterpart.
MODES = {"bilinear": 'mode="linear"', "bicubic": 'mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1'}


def check(interpolation: str) -> None:
    """Rejects interpolations that can't be exported.

    Raises:
        UserError: ONNX has no such filter.
    """
    if interpolation not in MODES:
        raise UserError(
            f"model.input.interpolation={interpolation} can't be exported; choose one of {', '.join(MODES)}"
        )


def graph(preprocessing: Preprocessing, opset: int, ir_version: int) -> "onnx.ModelProto":
    """The graph from `picture`, uint8 height × width × 3, to `pictures`, uint8 1 × size × size × 3.

    Args:
        preprocessing: a card's `input`; its interpolation is one that `check` accepts.
        opset: ONNX opset version, 18 or later.
        ir_version: ONNX IR version.
    """
    from onnx import parser

    size = preprocessing.size
    if preprocessing.crop == "squash":
        target, cut = f"target = Constant <value_ints=[{size}, {size}]> ()", "cut = Identity (resized)"
    else:
        target = f"""
            shorter = ReduceMin <keepdims=1> (small)
            whole = Constant <value=double[1] {{{size / preprocessing.crop_pct!r}}}> ()
            enlarge = Div (whole, shorter)
            enlarged = Mul (small, enlarge)
            near = Round (enlarged)
            least = Constant <value=double[1] {{{float(size)!r}}}> ()
            enough = Max (near, least)
            target = Cast <to=7> (enough)
        """
        cut = f"""
            two = Constant <value_ints=[2]> ()
            side = Constant <value_ints=[{size}, {size}]> ()
            spare = Sub (target, side)
            from = Div (spare, two)
            until = Add (from, side)
            axes = Constant <value_ints=[2, 3]> ()
            cut = Slice (resized, from, until, axes)
        """
    resize = "Resize <antialias=1, {}> ({},,,{})"
    # Sizes are computed in double precision, as in Python.
    return parser.parse_model(f"""
        <ir_version: {ir_version}, opset_import: ["" : {opset}]>
        sizing (uint8[height, width, 3] picture) => (uint8[1, {size}, {size}, 3] pictures) {{
            planes = Transpose <perm=[2, 0, 1]> (picture)
            first = Constant <value_ints=[0]> ()
            batch = Unsqueeze (planes, first)
            sides = Shape <start=0, end=2> (picture)
            lengths = Cast <to=11> (sides)
            longer = ReduceMax <keepdims=1> (lengths)
            most = Constant <value=double[1] {{{float(preprocessing.max_side)!r}}}> ()
            one = Constant <value=double[1] {{1.0}}> ()
            wanted = Div (most, longer)
            scale = Min (wanted, one)
            exact = Mul (lengths, scale)
            rounded = Round (exact)
            small = Max (rounded, one)
            sides_small = Cast <to=7> (small)
            front = Constant <value_ints=[1, 3]> ()
            sizes_small = Concat <axis=0> (front, sides_small)
            shrunk = {resize.format(MODES["bicubic"], "batch", "sizes_small")}
            {target}
            sizes = Concat <axis=0> (front, target)
            resized = {resize.format(MODES[preprocessing.interpolation], "shrunk", "sizes")}
            {cut}
            pictures = Transpose <perm=[0, 2, 3, 1]> (cut)
        }}
    """)
