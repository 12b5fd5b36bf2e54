"""Plots of results, reproducible byte for byte."""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.common import text
from pipeline.tasks import best_row

_log = logging.getLogger(__name__)

matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$
# Equal plots must be equal bytes, so the file contains no version or date.
_BARE = {"metadata": {"Software": None}, "dpi": 110}
# Fonts of matplotlib that map letters to boxes or symbols.
_SYMBOLS = ("Last Resort", "cm", "STIXN", "STIXS")
_boxes: set[str] = set()  # letters already reported as missing from every font


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):  # the keys of a dictionary are names
        for item in value:
            yield from _strings(item)


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return text.lines(value)
    if isinstance(value, dict):
        return {_escaped(key): item for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _lacking(file: str, letters: set[str]) -> set[str]:
    """Letters that a font lacks."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return {letter for letter in letters if not font.get_char_index(ord(letter))}
    except (OSError, RuntimeError):  # deleted meanwhile, or a colour bitmap font
        return letters


def _fallbacks(letters: set[str]) -> list[str]:
    """Installed font families that have the letters which the default font lacks."""
    from matplotlib import font_manager

    missing = _lacking(font_manager.findfont(font_manager.FontProperties()), letters)
    chosen = []
    if missing:
        fonts = font_manager.fontManager.ttflist
        upright = [font for font in fonts if font.style == "normal" and not font.name.startswith(_SYMBOLS)]
        upright.sort(key=lambda font: (font.weight != 400, font.name))
        lacking = {font.fname: _lacking(font.fname, missing) for font in upright}
        while missing and upright:
            best = min(upright, key=lambda font: len(lacking[font.fname] & missing))
            if lacking[best.fname] >= missing:
                break
            missing &= lacking[best.fname]
            chosen.append(best.name)
    if missing - _boxes:
        _log.warning(
            "no font here has %s (%d letters); boxes are drawn for them until one is installed, such as Noto "
            "Sans CJK",
            "".join(sorted(missing)[:8]),
            len(missing),
        )
        _boxes.update(missing)
    return chosen


def _legible(draw: Callable[..., None]) -> Callable[..., None]:
    """Decorator: draws with fonts that have all letters of the names, and escapes control characters."""

    @functools.wraps(draw)
    def drawn(*args: object) -> None:
        args = [_escaped(value) for value in args]
        letters = {letter for word in _strings(args) for letter in word if not letter.isspace()}
        families = [*plt.rcParams["font.family"], *_fallbacks(letters)]
        with plt.rc_context({"font.family": families}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            draw(*args)

    return drawn


def _close(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", **_BARE)
    plt.close(figure)


@_legible
def confusion(matrix: np.ndarray, counts: np.ndarray, classes: list[str], title: str, file: Path) -> None:
    """Plots a confusion matrix, rows true and columns predicted, normalized by row.

    Args:
        matrix: image counts, classes × classes.
        counts: images per class.
        classes: class names.
        title: title of the plot.
        file: the file to write.
    """
    shares = matrix / np.maximum(counts[:, None], 1)
    side = min(max(3.0, 0.22 * len(classes)), 10.0)
    figure, axes = plt.subplots(figsize=(side, side))
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    names = classes if len(classes) <= 80 else []  # more names do not fit
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of the class")
    _close(figure, file)


@_legible
def mistakes(pictures: list[np.ndarray], captions: list[str], title: str, file: Path) -> None:
    """Plots a grid of images with captions."""
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
    """Plots a validation metric and the losses by epoch, one line per model.

    Models without epochs get a horizontal line; models without measurements are left out.

    Args:
        rows: curve rows of each model.
        key: key of the monitored metric, which is between 0 and 1.
        title: name of the metric.
        file: the file to write.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for number, (name, points) in enumerate(rows.items()):
        colour = f"C{number}"
        epochs = [point for point in points if point.get("epoch") is not None]
        if epochs:
            x = [point["epoch"] for point in epochs]
            train_loss = [point.get("train/loss") or np.nan for point in epochs]  # epoch 0 has none
            left.plot(x, [100 * point[key] for point in epochs], color=colour, label=name)
            right.plot(x, train_loss, color=colour, ls="--", label=f"{name}, train")
            right.plot(x, [point["val/loss"] for point in epochs], color=colour, label=f"{name}, val")
        elif points:
            left.axhline(100 * best_row(points, key)[key], color=colour, ls=":", label=name)
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
    """Plots one metric of each model in per cent with 95 % intervals, best on top."""
    figure, axes = plt.subplots(figsize=(6, 0.6 + 0.45 * len(names)))
    positions = np.arange(len(names))[::-1]
    spread = [np.subtract(best, low), np.subtract(high, best)]
    axes.errorbar(best, positions, xerr=spread, fmt="o", capsize=4)
    axes.set_yticks(positions, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set(xlabel=f"{figure_title}, % with 95 % interval", title=title)
    axes.grid(alpha=0.3, axis="x")
    _close(figure, file)


@_legible
def calibration(rows: dict[str, tuple[np.ndarray, np.ndarray]], file: Path) -> None:
    """Plots a reliability diagram: accuracy against confidence.

    Args:
        rows: per model, confidence of each prediction and whether it was correct.
        file: the file to write.
    """
    figure, axes = plt.subplots(figsize=(3.8, 3.6))
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for name, (confidence, correct) in rows.items():
        # Ten bins with equally many images, so that all points are equally reliable.
        bins = np.array_split(np.argsort(confidence, kind="stable"), 10)
        bins = [members for members in bins if len(members)]
        x, y = ([values[members].mean() for members in bins] for values in (confidence, correct))
        axes.plot(x, y, "o-", ms=3, label=name)
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    _close(figure, file)
