"""Augmentation of training images; the only module that imports albumentations."""

import os
import random
from collections.abc import Callable

import numpy as np
from pydantic import ValidationError

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.common.text import printable, shortened

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import checks for updates online
TRIALS = 10  # trial runs of the transforms per image size, on a black image


def build(transforms: list[dict], sides: list[int]) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Returns a function (uint8 H×W×3, seed, epoch) → uint8 side×side×3, deterministic in its arguments.

    Args:
        transforms: albumentations classes with their arguments, in order of application.
        sides: side of the results in pixels, per epoch.

    Raises:
        UserError: albumentations lacks a transform or an argument, or the transforms fail in a trial run. The
            function raises it too, for example if an image is too small for a transform.
    """
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # each worker handles one image at a time; more threads would compete for cores
    composed = {side: albumentations.Compose(_steps(transforms, side)) for side in set(sides)}
    # One random stream for all transforms: albumentations' set_random_seed gives each the same seed, and then
    # an image is flipped if and only if its colours change.
    bit_generator, python_rng = np.random.PCG64(), random.Random()
    for compose in composed.values():
        compose.set_random_state(np.random.Generator(bit_generator), python_rng)

    def augment(image: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        # Seeded per image: with workers, albumentations would use the same stream in all of them.
        bit_generator.state = np.random.PCG64(seed).state
        python_rng.seed(seed)
        side = sides[epoch]
        try:
            changed = composed[side](image=image)["image"]
        except Exception as error:  # transforms raise many types
            raise UserError(
                f"augment.transforms fail on a picture of {image.shape[1]}×{image.shape[0]} pixels: "
                f"{shortened(error, 200)}; change them in conf/augment/"
            ) from error
        if changed.dtype != np.uint8 or changed.ndim != 3 or changed.shape[2] != 3:
            raise UserError(
                f"augment.transforms return {changed.dtype} {'×'.join(map(str, changed.shape))}, not uint8 "
                "height×width×3; change them in conf/augment/"
            )
        # Without a resizing transform, the whole image is squashed.
        if changed.shape[:2] == (side, side):
            return changed
        return cv2.resize(changed, (side, side), interpolation=cv2.INTER_AREA)

    # Fails here rather than during training; several trials, since most transforms apply at random.
    for epoch in {side: epoch for epoch, side in enumerate(sides)}.values() if transforms else ():
        for seed in range(TRIALS):
            augment(np.zeros((256, 256, 3), np.uint8), seed, epoch)
    return augment


def sides_per_epoch(size: int, scales: list[float], epochs: int) -> list[int]:
    """Side lengths of the training images in pixels, one per epoch; each scale gets equally many epochs.

    Rounded to multiples of eight, since networks downsample several times; a scale of 1 gives exactly `size`.

    Args:
        size: side of the network's input in pixels.
        scales: relative to `size`, in order.
        epochs: number of epochs.
    """
    pixels = [max(8, round(size * scale / 8) * 8) if scale != 1 else size for scale in scales]
    return [pixels[epoch * len(pixels) // epochs] for epoch in range(epochs)]


def _steps(transforms: list[dict], side: int) -> list:
    """Instantiates the transforms; their argument `size`, if they have one, defaults to the side."""
    steps = []
    for entry in transforms:
        ((name, arguments),) = entry.items()
        transform_class = _transform_class(name)
        arguments = dict(arguments or {})
        if "size" in transform_class.InitSchema.model_fields:
            arguments.setdefault("size", (side, side))
        unknown = set(arguments) - set(transform_class.InitSchema.model_fields)
        if unknown:
            raise UserError(f"augment: {name} has no argument {', '.join(sorted(unknown))}")
        try:
            steps.append(transform_class(**arguments))
        except ValueError as error:
            raise UserError(f"augment: {_error_text(name, error)}") from error
    return steps


def _error_text(name: str, error: ValueError) -> str:
    """A one-line message for an error in a transform's arguments."""
    cause = error.__context__
    if not isinstance(cause, ValidationError):
        return f"{name}: {printable(' '.join(str(error).split()))}"
    first = cause.errors(include_url=False)[0]
    return f"{'.'.join(map(str, (name, *first['loc'])))}={printable(first['input'])}: {first['msg']}"


def _transform_class(name: str) -> type:
    """The albumentations class of this name.

    Raises:
        UserError: there is no such transform.
    """
    import albumentations

    found = vars(albumentations).get(name)
    if not isinstance(found, type) or not issubclass(found, albumentations.BasicTransform):
        raise UserError(f"augment: albumentations has no transform '{name}'")
    return found


def check(transforms: object) -> None:
    """Checks that untrusted transforms are albumentations classes with plain arguments.

    Raises:
        UserError: they are not.
    """
    for entry in transforms if isinstance(transforms, list) else [transforms]:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise UserError("augment.transforms must be a list of transforms, each with its arguments")
        ((name, arguments),) = entry.items()
        _transform_class(name)
        is_mapping = isinstance(arguments or {}, dict)
        if not is_mapping or not all(portable.is_plain(each, 2) for each in (arguments or {}).values()):
            raise UserError(f"augment: {name} has an argument that is not a plain value")
