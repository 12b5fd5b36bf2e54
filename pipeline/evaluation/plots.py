"""Pictures of results, drawn alike wherever they are shown."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.common import text

matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$
# Equal figures must be equal bytes: no version, no date in the file.
_BARE = {"metadata": {"Software": None}, "dpi": 110}
# Of matplotlib's own fonts: a box for every letter, or symbols under the numbers of letters.
_SYMBOLS = ("Last Resort", "cm", "STIXN", "STIXS")
_boxes: set[str] = set()  # letters of which it was said that no font has them


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):  # of a dictionary the keys are names
        for item in value:
            yield from _strings(item)


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return text.lines(value)
    if isinstance(value, dict):
        return {_escaped(key): item for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _lacking(file: str, letters: set[str]) -> set[str]:
    """Letters that a font does not have."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return {letter for letter in letters if not font.get_char_index(ord(letter))}
    except (OSError, RuntimeError):  # gone since the list was made, or of coloured bitmaps
        return letters


def _fallbacks(letters: set[str]) -> list[str]:
    """Families that have the letters which the usual font lacks, where this machine has such fonts."""
    from matplotlib import font_manager

    missing = _lacking(font_manager.findfont(font_manager.FontProperties()), letters)
    chosen = []
    if missing:
        fonts = font_manager.fontManager.ttflist
        upright = [font for font in fonts if font.style == "normal" and not font.name.startswith(_SYMBOLS)]
        upright.sort(key=lambda font: (font.weight != 400, font.name))
        left = {font.fname: _lacking(font.fname, missing) for font in upright}
        while missing and upright:
            best = min(upright, key=lambda font: len(left[font.fname] & missing))
            if left[best.fname] >= missing:
                break
            missing &= left[best.fname]
            chosen.append(best.name)
    if missing - _boxes:
        print(
            f"figures: no font here has {''.join(sorted(missing)[:8])} ({len(missing)} letters); boxes stand "
            "for them until one is installed, such as Noto Sans CJK",
            file=sys.stderr,
        )
        _boxes.update(missing)
    return chosen


def _legible(draw: Callable[..., None]) -> Callable[..., None]:
    """Draws with fonts that have all letters of the names, and without control characters."""

    @functools.wraps(draw)
    def drawn(*given: object) -> None:
        given = [_escaped(value) for value in given]
        letters = {letter for word in _strings(given) for letter in word if not letter.isspace()}
        families = [*plt.rcParams["font.family"], *_fallbacks(letters)]
        with plt.rc_context({"font.family": families}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            draw(*given)

    return drawn


def _close(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", **_BARE)
    plt.close(figure)


@_legible
def confusion(matrix: np.ndarray, counts: np.ndarray, classes: list[str], title: str, file: Path) -> None:
    """A confusion matrix, rows true and columns predicted, each row as shares of its class's images.

    Args:
        matrix: images, classes × classes.
        counts: images of each class.
        classes: names.
        title: above it.
        file: where to.
    """
    shares = matrix / np.maximum(counts[:, None], 1)
    side = min(max(3.0, 0.22 * len(classes)), 10.0)
    figure, axes = plt.subplots(figsize=(side, side))
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    names = classes if len(classes) <= 80 else []  # more do not fit
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of the class")
    _close(figure, file)


@_legible
def mistakes(pictures: list[np.ndarray], captions: list[str], title: str, file: Path) -> None:
    """A sheet of pictures with what they are and what they were taken for."""
    columns = 6
    rows = max(1, -(-len(pictures) // columns))
    figure, grid = plt.subplots(rows, columns, figsize=(columns * 1.7, rows * 2.1), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        axes.imshow(picture)
        axes.set_title(caption, fontsize=6)
    figure.suptitle(title, fontsize=9)
    _close(figure, file)


@_legible
def curves(rows: dict[str, list[dict]], key: str, title: str, file: Path) -> None:
    """A share on validation and losses by epoch, a line a model.

    Models without epochs are a level line; models of which nothing was measured are left out.

    Args:
        rows: points of each model.
        key: of the share.
        title: of it.
        file: where to.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for number, (name, points) in enumerate(rows.items()):
        colour = f"C{number}"
        epochs = [point for point in points if point.get("epoch") is not None]
        if epochs:
            x = [point["epoch"] for point in epochs]
            left.plot(x, [100 * point[key] for point in epochs], color=colour, label=name)
            right.plot(
                x,
                [point.get("train/loss") or np.nan for point in epochs],
                color=colour,
                ls="--",
                label=f"{name}, train",
            )
            right.plot(x, [point["val/loss"] for point in epochs], color=colour, label=f"{name}, val")
        elif points:
            kept = min(points, key=lambda point: point["val/loss"])  # as models/probe.py chooses
            left.axhline(100 * kept[key], color=colour, ls=":", label=name)
    left.set(xlabel="epoch", ylabel=f"{title}, %")
    right.set(xlabel="epoch", ylabel="loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    _close(figure, file)


@_legible
def leaderboard(
    names: list[str],
    best: list[float],
    low: list[float],
    high: list[float],
    figure_title: str,
    title: str,
    file: Path,
) -> None:
    """A figure of models in per cent with 95 % intervals, best on top."""
    figure, axes = plt.subplots(figsize=(6, 0.6 + 0.45 * len(names)))
    places = np.arange(len(names))[::-1]
    spread = [np.subtract(best, low), np.subtract(high, best)]
    axes.errorbar(best, places, xerr=spread, fmt="o", capsize=4)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set(xlabel=f"{figure_title}, % with 95 % interval", title=title)
    axes.grid(alpha=0.3, axis="x")
    _close(figure, file)


@_legible
def calibration(rows: dict[str, tuple[np.ndarray, np.ndarray]], file: Path) -> None:
    """How often a prediction is right against how sure it was.

    Args:
        rows: per model, confidence of each prediction and whether it was right.
        file: where to.
    """
    figure, axes = plt.subplots(figsize=(3.8, 3.6))
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for name, (sure, right) in rows.items():
        # Ten bins of equally many pictures: every point rests on the same evidence.
        parts = np.array_split(np.argsort(sure, kind="stable"), 10)
        parts = [part for part in parts if len(part)]
        axes.plot(
            [sure[part].mean() for part in parts],
            [right[part].mean() for part in parts],
            "o-",
            ms=3,
            label=name,
        )
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    _close(figure, file)
