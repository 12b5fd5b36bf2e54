"""Out-of-domain images for training, for choosing the abstention threshold, and for testing it.

No extra data set is needed. Training (`Outliers`) and the choice of the threshold use generated patterns
(`generated_patterns`); testing uses crops (`photo_crops`) of the two photographs that ship with
scikit-learn, a temple and a flower. Shuffled tiles of face images were tried and dropped: they still show a
breed's fur, a third of them gets a confidence of at least 80 %, and a threshold that rejects them also
rejects a quarter of the correct predictions.
"""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from pipeline import portable
from pipeline.data.dataset import eval_transform
from pipeline.portable import Preprocessing

SIDE = 128  # of a pattern, in pixels
POOL, POOL_SEED = 1200, 12345  # patterns for training; those for choosing the threshold use seed 0


class Outliers:
    """Generated patterns that are added to each batch, so that the network learns low confidence on them.

    Outlier exposure (Hendrycks et al. 2019, arXiv:1812.04606). Without it, a network trained from scratch
    is more than 99 % confident on some patterns, on others in each training, and a threshold above that
    rejects most correct predictions; see reports/benchmarks.md.

    Args:
        count: patterns per batch.
        preprocessing: a card's `input`.
    """

    def __init__(self, count: int, preprocessing: Preprocessing):
        self.count, self.preprocessing = count, preprocessing
        patterns = map(Image.fromarray, generated_patterns(POOL, POOL_SEED))
        self.pool = [portable.shrink(pattern, preprocessing.max_side) for pattern in patterns]
        self.resized = np.empty((0, 0))  # the pool at the current image size

    def add(self, images: torch.Tensor) -> torch.Tensor:
        """Appends `count` patterns, chosen by torch's RNG, to a batch of images, uint8 N×H×W×3."""
        side = images.shape[1]
        if self.resized.shape[1] != side:  # progressive resizing uses a few sizes, one after another
            resize = eval_transform(replace(self.preprocessing, size=side))
            self.resized = np.stack([resize(pattern) for pattern in self.pool])
        chosen = torch.randint(len(self.resized), (self.count,)).numpy()
        return torch.cat([images, torch.from_numpy(self.resized[chosen]).to(images.device)])


def generated_patterns(count: int, seed: int) -> list[np.ndarray]:
    """Generates noise, clouds, gradients, stripes, ellipses and boxes, each uint8 SIDE × SIDE × 3."""
    rng = np.random.default_rng(seed)
    kinds = (_noise, _gradient, _stripes, _ellipses, _boxes, _clouds)
    return [kinds[number % len(kinds)](rng) for number in range(count)]


def photo_crops(count: int, seed: int) -> list[np.ndarray]:
    """Square crops of two photographs without animals; each uint8 H×W×3, 128 to 256 pixels per side."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photos = load_sample_images().images
    crops = []
    for number in range(count):
        photo = photos[number % len(photos)]
        side = int(rng.integers(128, 257))
        top, left = (int(rng.integers(0, length - side)) for length in photo.shape[:2])
        crops.append(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    return crops


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 256, 3))


def _noise(rng: np.random.Generator) -> np.ndarray:
    coarse = int(rng.integers(2, SIDE + 1))
    noise = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
    return np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _clouds(rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with frequency as in photographs, about 1/f (Field 1987)."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :])
    frequency[0, 0] = 1  # avoids division by zero; the mean is set below
    spectrum = frequency ** -rng.uniform(0.8, 2.2)
    # Grey to colourful: as in photographs, the channels share most of their variation.
    waves = rng.normal(size=(SIDE, SIDE, 1, 2)) + rng.random() * rng.normal(size=(SIDE, SIDE, 3, 2))
    texture = np.fft.ifft2(spectrum[..., None] * (waves[..., 0] + 1j * waves[..., 1]), axes=(0, 1)).real
    contrast = rng.uniform(20, 70) / texture.std(axis=(0, 1))
    return np.clip(texture * contrast + rng.integers(40, 216, 3), 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(0, 1, SIDE)[None, :, None] * rng.random() + np.linspace(0, 1, SIDE)[:, None, None]
    start, end = np.array([_colour(rng), _colour(rng)], dtype=float)
    return np.clip(start + (end - start) * ramp / ramp.max(), 0, 255).astype(np.uint8)


def _stripes(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    angle, period = rng.random() * np.pi, rng.uniform(4, 40)
    is_first = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period) > 0
    return np.where(is_first[..., None], _colour(rng), _colour(rng)).astype(np.uint8)


def _ellipses(rng: np.random.Generator) -> np.ndarray:
    image = Image.new("RGB", (SIDE, SIDE), _colour(rng))
    for _ in range(int(rng.integers(3, 20))):
        x, y, radius = *rng.integers(0, SIDE, 2), rng.integers(4, 40)
        box = [int(value) for value in (x - radius, y - radius, x + radius, y + radius)]
        ImageDraw.Draw(image).ellipse(box, fill=_colour(rng))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 4)))))


def _boxes(rng: np.random.Generator) -> np.ndarray:
    image = Image.new("RGB", (SIDE, SIDE), _colour(rng))
    for _ in range(int(rng.integers(2, 12))):
        left, top, width, height = (int(value) for value in rng.integers(0, SIDE, 4))
        ImageDraw.Draw(image).rectangle([left, top, left + width // 2, top + height // 2], fill=_colour(rng))
    return np.asarray(image)
