"""A picture is sized alike by Pillow, as training does it, and by the exported graph."""

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


def _run(card: portable.Preprocessing, picture: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(onnx_resize.graph(card, 18, 10).SerializeToString(), options)
    return session.run(None, {"picture": picture})[0][0]


def _pillow(card: portable.Preprocessing, picture: np.ndarray) -> np.ndarray:
    small = portable.shrink(Image.fromarray(picture), card.max_side)
    return portable.to_square(small, card.size, card.interpolation, card.crop, card.crop_pct)


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth parts and hard edges."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), 0)
    noise = rng.integers(-9, 10, (height, width, 3))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)


def _alike(graph: np.ndarray, pillow: np.ndarray) -> None:
    apart = np.abs(graph.astype(int) - pillow)
    # Of 255; each of the two steps rounds.
    assert apart.max() <= 4 and apart.mean() < 0.25


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", ["squash", "center"])
@pytest.mark.parametrize(
    ("height", "width"), [(300, 411), (96, 128), (128, 128), (40, 17), (1, 1), (2000, 30)]
)
def test_the_graph_sizes_as_pillow_does(interpolation, crop, height, width):
    card = replace(SQUASH, interpolation=interpolation, crop=crop)
    picture = _picture(height, width)
    _alike(_run(card, picture), _pillow(card, picture))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 128))
@settings(max_examples=25, deadline=None)
def test_the_graph_sizes_any_picture(height, width, size):
    card = replace(SQUASH, size=size)
    picture = _picture(height, width, seed=size)
    _alike(_run(card, picture), _pillow(card, picture))


def test_a_filter_that_can_not_leave_is_refused():
    with pytest.raises(UserError, match="interpolation=lanczos can't be exported; choose one of bilinear"):
        onnx_resize.check("lanczos")
