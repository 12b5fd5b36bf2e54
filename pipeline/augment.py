"""Random changes to training pictures; the only module that imports albumentations."""

from collections.abc import Callable

import numpy as np

from pipeline import config
from pipeline.config import UserError


def build(transforms: list[dict], size: int) -> Callable[[np.ndarray, int | None], np.ndarray]:
    """A function (uint8 H×W×3, seed) → uint8 size×size×3; the same seed gives the same picture.

    Args:
        transforms: each an albumentations class with its arguments, in the order of their application.
        size: side of the result in pixels; a transform that takes `size` is given it.

    Raises:
        UserError: a transform or an argument that albumentations does not know.
    """
    assert config  # has switched albumentations' update check off before its import
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # one picture a worker; threads within it only get in each other's way
    steps = []
    for entry in transforms:
        ((name, arguments),) = entry.items()
        kind = getattr(albumentations, name, None)
        if kind is None:
            raise UserError(f"augment: albumentations has no transform '{name}'")
        arguments = dict(arguments or {})
        if "size" in kind.InitSchema.model_fields:
            arguments.setdefault("size", (size, size))
        unknown = set(arguments) - set(kind.InitSchema.model_fields)
        if unknown:
            raise UserError(f"augment: {name} has no argument {', '.join(sorted(unknown))}")
        try:
            steps.append(kind(**arguments))
        except ValueError as error:  # pydantic's, many lines; the last but one says what is wrong
            raise UserError(f"augment: {name}: {' '.join(str(error).split())}") from error
    # A sizing transform may stand last or be missing: then the whole picture is squeezed.
    steps.append(albumentations.Resize(size, size, interpolation=cv2.INTER_AREA))
    compose = albumentations.Compose(steps)

    def augment(picture: np.ndarray, seed: int | None) -> np.ndarray:
        # Seeding here and not at the start: with workers albumentations draws one stream in all of them.
        compose.set_random_seed(seed)
        return compose(image=picture)["image"]

    return augment
