"""The exported graph resizes an image as Pillow does in training."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import portable
from pipeline.artifacts import onnx_resize
from pipeline.common.errors import UserError

SQUASH = portable.Preprocessing(
    max_side=128,
    size=96,
    interpolation="bicubic",
    crop="squash",
    crop_pct=0.875,
    mean=[0.5] * 3,
    std=[0.5] * 3,
)


def _run(card: portable.Preprocessing, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(onnx_resize.graph(card, 18, 10).SerializeToString(), options)
    return session.run(None, {"picture": image})[0][0]


def _pillow(card: portable.Preprocessing, image: np.ndarray) -> np.ndarray:
    small = portable.shrink(Image.fromarray(image), card.max_side)
    return portable.to_square(small, card.size, card.interpolation, card.crop, card.crop_pct)


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image with smooth areas and hard edges."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), 0)
    noise = rng.integers(-9, 10, (height, width, 3))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)


def _assert_close(graph: np.ndarray, pillow: np.ndarray) -> None:
    difference = np.abs(graph.astype(int) - pillow)
    # Of 255; both steps round.
    assert difference.max() <= 4 and difference.mean() < 0.25


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", ["squash", "center"])
@pytest.mark.parametrize(
    ("height", "width"), [(300, 411), (96, 128), (128, 128), (40, 17), (1, 1), (2000, 30)]
)
def test_the_graph_resizes_as_pillow_does(interpolation, crop, height, width):
    card = replace(SQUASH, interpolation=interpolation, crop=crop)
    image = _image(height, width)
    _assert_close(_run(card, image), _pillow(card, image))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 128))
@settings(max_examples=25, deadline=None)
def test_the_graph_resizes_any_image(height, width, size):
    card = replace(SQUASH, size=size)
    image = _image(height, width, seed=size)
    _assert_close(_run(card, image), _pillow(card, image))


def test_a_filter_that_onnx_lacks_is_an_error():
    with pytest.raises(UserError, match="interpolation=lanczos can't be exported; choose one of bilinear"):
        onnx_resize.check("lanczos")
