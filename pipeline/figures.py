"""Pictures of results, drawn alike wherever they are shown."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# Equal figures must be equal bytes: no version, no date in the file.
_BARE = {"metadata": {"Software": None}, "dpi": 110}


def _close(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", **_BARE)
    plt.close(figure)


def confusion(matrix: np.ndarray, classes: list[str], title: str, file: Path) -> None:
    """A confusion matrix, rows true and columns predicted, each row as shares of its class."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
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


def curves(rows: dict[str, list[dict]], file: Path) -> None:
    """Validation top-1 and losses by epoch, a line a model.

    Models without epochs are a level line; models of which nothing was measured are left out.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for number, (name, points) in enumerate(rows.items()):
        colour = f"C{number}"
        epochs = [point for point in points if point.get("epoch") is not None]
        if epochs:
            x = [point["epoch"] for point in epochs]
            left.plot(x, [100 * point["val/top1"] for point in epochs], color=colour, label=name)
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
            left.axhline(100 * kept["val/top1"], color=colour, ls=":", label=name)
    left.set(xlabel="epoch", ylabel="val top-1, %")
    right.set(xlabel="epoch", ylabel="loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    _close(figure, file)


def leaderboard(
    names: list[str], best: list[float], low: list[float], high: list[float], title: str, file: Path
) -> None:
    """Test top-1 in per cent with 95 % intervals, best on top."""
    figure, axes = plt.subplots(figsize=(6, 0.6 + 0.45 * len(names)))
    places = np.arange(len(names))[::-1]
    spread = [np.subtract(best, low), np.subtract(high, best)]
    axes.errorbar(best, places, xerr=spread, fmt="o", capsize=4)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set(xlabel="test top-1, % with 95 % interval", title=title)
    axes.grid(alpha=0.3, axis="x")
    _close(figure, file)


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
