"""Random changes to training pictures; the only module that imports albumentations."""

import os
import random
from collections.abc import Callable

import numpy as np
from pydantic import ValidationError

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.common.text import printable, shortened

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # albumentations would ask a server when it is imported
TRIALS = 10  # of new transforms, on a picture of one colour


def build(transforms: list[dict], sides: list[int]) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """A function (uint8 H×W×3, seed, epoch) → uint8 side×side×3; the same seed gives the same picture.

    Args:
        transforms: each an albumentations class with its arguments, in the order of their application.
        sides: of the results in pixels, epoch by epoch.

    Raises:
        UserError: a transform or an argument that albumentations does not know, or transforms that don't make
            a picture of a picture; of one that is too small for them when it comes.
    """
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # one picture a worker; threads within it only get in each other's way
    composed = {side: albumentations.Compose(_steps(transforms, side)) for side in set(sides)}
    # One stream for all transforms: albumentations' own set_random_seed gives each of them the same one, and
    # then a picture is mirrored if and only if its colours change.
    bits, luck = np.random.PCG64(), random.Random()
    for compose in composed.values():
        compose.set_random_state(np.random.Generator(bits), luck)

    def augment(picture: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        # Seeding here and not at the start: with workers albumentations draws one stream in all of them.
        bits.state = np.random.PCG64(seed).state
        luck.seed(seed)
        side = sides[epoch]
        try:
            changed = composed[side](image=picture)["image"]
        except Exception as error:  # whatever a transform raises
            raise UserError(
                f"augment.transforms can't change a picture of {picture.shape[1]}×{picture.shape[0]} pixels: "
                f"{shortened(error, 200)}; change them in conf/augment/"
            ) from error
        if changed.dtype != np.uint8 or changed.ndim != 3 or changed.shape[2] != 3:
            raise UserError(
                f"augment.transforms make {changed.dtype} {'×'.join(map(str, changed.shape))} of a picture, "
                "not uint8 height×width×3; change them in conf/augment/"
            )
        # A transform that sizes may be missing: then the whole picture is squeezed.
        if changed.shape[:2] == (side, side):
            return changed
        return cv2.resize(changed, (side, side), interpolation=cv2.INTER_AREA)

    # Now, not in the middle of a training; several times, since most transforms are left out by chance.
    for epoch in {side: epoch for epoch, side in enumerate(sides)}.values() if transforms else ():
        for seed in range(TRIALS):
            augment(np.zeros((256, 256, 3), np.uint8), seed, epoch)
    return augment


def sides(size: int, shares: list[float], epochs: int) -> list[int]:
    """Sides of training pictures in pixels, epoch by epoch: each share of `size` for as many epochs.

    Multiples of eight, for networks halve them several times.
    """
    pixels = [max(8, round(size * share / 8) * 8) if share != 1 else size for share in shares]
    return [pixels[epoch * len(pixels) // epochs] for epoch in range(epochs)]


def _steps(transforms: list[dict], side: int) -> list:
    """albumentations' transforms; one that takes `size` is given the side."""
    steps = []
    for entry in transforms:
        ((name, arguments),) = entry.items()
        kind = _kind(name)
        arguments = dict(arguments or {})
        if "size" in kind.InitSchema.model_fields:
            arguments.setdefault("size", (side, side))
        unknown = set(arguments) - set(kind.InitSchema.model_fields)
        if unknown:
            raise UserError(f"augment: {name} has no argument {', '.join(sorted(unknown))}")
        try:
            steps.append(kind(**arguments))
        except ValueError as error:
            raise UserError(f"augment: {_explained(name, error)}") from error
    return steps


def _explained(name: str, error: ValueError) -> str:
    """What is wrong with a transform's arguments, in one line."""
    cause = error.__context__
    if not isinstance(cause, ValidationError):
        return f"{name}: {printable(' '.join(str(error).split()))}"
    first = cause.errors(include_url=False)[0]
    return f"{'.'.join(map(str, (name, *first['loc'])))}={printable(first['input'])}: {first['msg']}"


def _kind(name: str) -> type:
    """albumentations' transform of this name.

    Raises:
        UserError: there is none.
    """
    import albumentations

    kind = vars(albumentations).get(name)
    if not isinstance(kind, type) or not issubclass(kind, albumentations.BasicTransform):
        raise UserError(f"augment: albumentations has no transform '{name}'")
    return kind


def check(transforms: object) -> None:
    """Makes sure that transforms which a stranger wrote are albumentations' own with plain arguments.

    Raises:
        UserError: they are something else.
    """
    for entry in transforms if isinstance(transforms, list) else [transforms]:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise UserError("augment.transforms must be a list of transforms, each with its arguments")
        ((name, arguments),) = entry.items()
        _kind(name)
        plain = isinstance(arguments or {}, dict)
        if not plain or not all(portable.is_plain(value, deep=2) for value in (arguments or {}).values()):
            raise UserError(f"augment: {name} has an argument that is no plain value")
