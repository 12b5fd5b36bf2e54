"""Plots of results; equal data gives files with equal bytes."""

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
_SAVE = {"metadata": {"Software": None}, "dpi": 110}  # without matplotlib's version, which would change bytes
# Fonts that come with matplotlib and map letters to boxes or symbols.
_SYMBOL_FONTS = ("Last Resort", "cm", "STIXN", "STIXS")
_reported: set[str] = set()  # characters already reported as missing from every font


def _strings(value: object) -> Iterator[str]:
    """Strings in nested lists, tuples and dictionary keys; values of dictionaries are data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value:
            yield from _strings(item)


def _escaped(value: object) -> object:
    """The value with control characters escaped in strings, lists of them and dictionary keys."""
    if isinstance(value, str):
        return text.lines(value)
    if isinstance(value, dict):
        return {_escaped(key): item for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _missing_glyphs(font_file: str, characters: set[str]) -> set[str]:
    """The characters for which a font has no glyph; all of them if it can't be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(font_file)
        return {character for character in characters if not font.get_char_index(ord(character))}
    except (OSError, RuntimeError):  # deleted since matplotlib listed it, or a colour bitmap font
        return characters


def _fallback_fonts(characters: set[str]) -> list[str]:
    """Installed font families that have the characters which the default font lacks."""
    from matplotlib import font_manager

    missing = _missing_glyphs(font_manager.findfont(font_manager.FontProperties()), characters)
    chosen = []
    if missing:
        fonts = font_manager.fontManager.ttflist
        fonts = [font for font in fonts if font.style == "normal" and not font.name.startswith(_SYMBOL_FONTS)]
        fonts.sort(key=lambda font: (font.weight != 400, font.name))
        lacks = {font.fname: _missing_glyphs(font.fname, missing) for font in fonts}
        while missing and fonts:
            best = min(fonts, key=lambda font: len(lacks[font.fname] & missing))
            if lacks[best.fname] >= missing:
                break
            missing &= lacks[best.fname]
            chosen.append(best.name)
    if missing - _reported:
        _log.warning(
            "plots show boxes for %s (%d characters): no installed font has them; install one, such as Noto "
            "Sans CJK",
            "".join(sorted(missing)[:8]),
            len(missing),
        )
        _reported.update(missing)
    return chosen


def _any_text(plot: Callable[..., None]) -> Callable[..., None]:
    """Decorator for plots of untrusted names: adds fallback fonts, and escapes control characters."""

    @functools.wraps(plot)
    def wrapper(*args: object) -> None:
        args = [_escaped(value) for value in args]
        characters = {character for character in "".join(_strings(args)) if not character.isspace()}
        families = [*plt.rcParams["font.family"], *_fallback_fonts(characters)]
        with plt.rc_context({"font.family": families}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            plot(*args)

    return wrapper


def _save(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", **_SAVE)
    plt.close(figure)


@_any_text
def confusion(matrix: np.ndarray, counts: np.ndarray, classes: list[str], title: str, file: Path) -> None:
    """Plots a confusion matrix, rows true and columns predicted, normalized by row.

    Args:
        matrix: counts of images, classes × classes.
        counts: number of images of each class.
        classes: class names.
        title: title of the plot.
        file: the file to write.
    """
    normalized = matrix / np.maximum(counts[:, None], 1)
    side = min(max(3.0, 0.22 * len(classes)), 10.0)
    figure, axes = plt.subplots(figsize=(side, side))
    image = axes.imshow(normalized, cmap="viridis", vmin=0, vmax=1)
    names = classes if len(classes) <= 80 else []  # more names do not fit
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of the class")
    _save(figure, file)


@_any_text
def mistakes(images: list[np.ndarray], captions: list[str], title: str, file: Path) -> None:
    """Plots images, each uint8 H×W×3, in a grid of six columns with their captions."""
    columns = 6
    rows = max(1, -(-len(images) // columns))
    figure, grid = plt.subplots(rows, columns, figsize=(columns * 1.7, rows * 2.1), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image)
        axes.set_title(caption, fontsize=6)
    figure.suptitle(title, fontsize=9)
    _save(figure, file)


@_any_text
def curves(rows: dict[str, list[dict]], key: str, title: str, file: Path) -> None:
    """Plots a validation metric and the losses by epoch, one line per model.

    Models without epochs get a horizontal line; models without any row are left out.

    Args:
        rows: by model, the rows of its ``curves.csv``.
        key: key of the monitored metric, which is between 0 and 1.
        title: name of the metric.
        file: the file to write.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for number, (name, own_rows) in enumerate(rows.items()):
        colour = f"C{number}"
        epochs = [row for row in own_rows if row.get("epoch") is not None]
        if epochs:
            x = [row["epoch"] for row in epochs]
            train_loss = [row.get("train/loss") or np.nan for row in epochs]  # epoch 0 has none
            left.plot(x, [100 * row[key] for row in epochs], color=colour, label=name)
            right.plot(x, train_loss, color=colour, ls="--", label=f"{name}, train")
            right.plot(x, [row["val/loss"] for row in epochs], color=colour, label=f"{name}, val")
        elif own_rows:
            left.axhline(100 * best_row(own_rows, key)[key], color=colour, ls=":", label=name)
    left.set(xlabel="epoch", ylabel=f"{title}, %")
    right.set(xlabel="epoch", ylabel="loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    _save(figure, file)


@_any_text
def leaderboard(
    names: list[str],
    values: list[float],
    low: list[float],
    high: list[float],
    metric: str,
    title: str,
    file: Path,
) -> None:
    """Plots one metric of each model, in per cent, with its 95 % interval from `low` to `high`.

    The models are plotted from top to bottom.
    """
    figure, axes = plt.subplots(figsize=(6, 0.6 + 0.45 * len(names)))
    positions = np.arange(len(names))[::-1]
    errors = [np.subtract(values, low), np.subtract(high, values)]
    axes.errorbar(values, positions, xerr=errors, fmt="o", capsize=4)
    axes.set_yticks(positions, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set(xlabel=f"{metric}, % with 95 % interval", title=title)
    axes.grid(alpha=0.3, axis="x")
    _save(figure, file)


@_any_text
def calibration(rows: dict[str, tuple[np.ndarray, np.ndarray]], file: Path) -> None:
    """Plots a reliability diagram: accuracy against confidence.

    Args:
        rows: by model, the confidence of each prediction, and whether it was correct (0 or 1).
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
    _save(figure, file)
