"""Image resizing, shared by packing, training and inference so that results agree."""

import numpy as np
from PIL import Image


def shrink(image: Image.Image, max_side: int) -> np.ndarray:
    """Shrinks the longer side to `max_side` pixels with antialiasing; never enlarges.

    Returns:
        uint8 array, height × width × 3.
    """
    scale = max_side / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = _resized(image, size, Image.Resampling.BICUBIC)
    return np.asarray(image)


def _resized(image: Image.Image, size: tuple[int, int], kind: Image.Resampling) -> Image.Image:
    """Resizes width, then height, as ONNX Runtime does; Pillow by itself picks the cheaper order."""
    return image.resize((size[0], image.height), kind).resize(size, kind)


def to_square(picture: np.ndarray, size: int, interpolation: str, crop: str, crop_pct: float) -> np.ndarray:
    """Resizes a packed image to the network's input, deterministically.

    Args:
        picture: uint8, height × width × 3.
        size: side length of the result in pixels.
        interpolation: a member of Pillow's `Resampling`, in lower case.
        crop: `squash` scales both sides to `size`; `center` scales the shorter side to
            `size / crop_pct` and takes the center crop, as timm does.
        crop_pct: used only by `center`.

    Returns:
        uint8, size × size × 3.
    """
    height, width = picture.shape[:2]
    if crop == "squash":
        target = (size, size)
    else:
        scale = size / crop_pct / min(height, width)
        target = (max(size, round(width * scale)), max(size, round(height * scale)))
    image = Image.fromarray(picture)
    if target != (width, height):
        image = _resized(image, target, Image.Resampling[interpolation.upper()])
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]
