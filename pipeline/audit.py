"""Stage audit: finds suspicious labels with cleanlab, from cross-validated predictions of a linear head.

The head that predicts an image was trained without it and its near-duplicates. A suspicious label need not be
wrong; the image may also be unusual. Nothing is relabelled, and only the stage report reads the result.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from pipeline import tasks
from pipeline.artifacts import atomic
from pipeline.common import log, tables
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.stage import stage
from pipeline.tasks import SEPARATOR

COLUMNS = ("path", "label", "suggested", "own_probability", "suggested_probability")
FOLDS = 5
# C (inverse regularization strength) and tol of scikit-learn. Validation accuracy is the same for C from 0.1
# to 1.0; raising tol tenfold cut the time to a third and changed accuracy by less than a point.
REGULARIZATION_C = 0.1
TOLERANCE = 1e-3


def out_of_fold(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold class probabilities, from heads trained without the image and its group.

    Args:
        features: N×C.
        targets: class index of each image, N.
        groups: near-duplicate group of each image, N.

    Returns:
        Probabilities, N×classes, and whether each image was predicted, N bool: not if its class has no
        image outside its group, and none if fewer than two classes remain.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros((len(targets), targets.max() + 1))
    predicted = np.zeros(len(targets), dtype=bool)
    pairs = np.unique(np.stack([targets, groups], axis=1), axis=0)
    known, group_counts = np.unique(pairs[:, 0], return_counts=True)  # number of groups per class
    known, group_counts = known[group_counts > 1], group_counts[group_counts > 1]
    if len(known) < 2:
        return probabilities, predicted
    rows = np.flatnonzero(np.isin(targets, known))
    x, y, row_groups = features[rows], targets[rows], groups[rows]
    folds = list(StratifiedGroupKFold(min(FOLDS, int(group_counts.min()))).split(x, y, row_groups))
    for train, held_out in folds:
        predicted[rows[held_out]] = np.isin(y[held_out], y[train])
    head = make_pipeline(
        StandardScaler(), LogisticRegression(C=REGULARIZATION_C, tol=TOLERANCE, max_iter=1000)
    )
    probabilities[np.ix_(rows, known)] = cross_val_predict(head, x, y, cv=folds, method="predict_proba")
    return probabilities, predicted


def suspicious(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Indices of the images whose label cleanlab flags, least probable labels first.

    Confident learning (Northcutt et al. 2021, arXiv:1911.00068) suggests another class only if its
    probability exceeds the average over the images with that label.

    Args:
        probabilities: out of fold, N×classes.
        targets: class index of each image, N.
    """
    from cleanlab.filter import find_label_issues

    if len(np.unique(targets)) < 2:
        return np.array([], dtype=np.int64)
    flagged = find_label_issues(targets, probabilities, filter_by="confident_learning", n_jobs=1)
    # Not if the label itself is the most probable class.
    indices = np.flatnonzero(flagged & (probabilities.argmax(axis=1) != targets))
    return indices[np.argsort(probabilities[indices, targets[indices]], kind="stable")]


class LabelIssue(NamedTuple):
    """A suspicious label: index of its image, the suggested label, and the probabilities of both."""

    image: int
    suggested: str
    own_probability: float
    suggested_probability: float


def _flagged(x: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images with a suspicious label, and all images' probabilities; see `out_of_fold`."""
    probabilities, predicted = out_of_fold(x, targets, groups)
    candidates = np.flatnonzero(predicted)
    return candidates[suspicious(probabilities[candidates], targets[candidates])], probabilities


def _issues(x: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: list[str]) -> list[LabelIssue]:
    """Suspicious labels of a single-label data set, worst first."""
    images, probabilities = _flagged(x, targets, groups)
    return [
        LabelIssue(image, classes[row.argmax()], row[targets[image]], row.max())
        for image, row in zip(images, probabilities[images], strict=True)
    ]


def _multi_label_issues(
    x: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: list[str]
) -> list[LabelIssue]:
    """Suspicious labels of a multi-label data set, found class by class; sorted by an image's worst class."""
    flagged: dict[int, dict[int, float]] = {}  # image → class → probability of its label
    for index in range(len(classes)):
        has = targets[:, index].astype(np.int64)
        images, probabilities = _flagged(x, has, groups)
        for image in images:
            flagged.setdefault(int(image), {})[index] = float(probabilities[image, has[image]])
    issues = []
    for image, wrong in flagged.items():
        suggested = [
            name for index, name in enumerate(classes) if bool(targets[image, index]) != (index in wrong)
        ]
        own = min(wrong.values())
        issues.append(LabelIssue(image, SEPARATOR.join(suggested), own, 1 - own))
    return sorted(issues, key=lambda issue: issue.own_probability)


def audit(cfg: DictConfig, data_dir: Path) -> list[dict]:
    """Writes ``audit.csv``: the suspicious labels only, worst first.

    Args:
        cfg: the complete configuration; the features of its model's frozen backbone are cached.
        data_dir: ``data/<name>``, the data set's folder.

    Returns:
        The rows, with the keys `COLUMNS`.

    Raises:
        UserError: the model has no frozen backbone, or there are no packed images.
    """
    import torch

    from pipeline.data.dataset import ImageDataset, PackedDataset, eval_transform
    from pipeline.training import build
    from pipeline.training.features import features

    if cfg.model.head != "probe":
        raise UserError(f"model={cfg.model.name} has no frozen backbone for the audit; use model=probe")
    pack = PackedDataset.open(data_dir)
    torch.set_num_threads(cfg.runtime.threads)
    training = build.build(cfg, pack)
    training.model.to(build.device(cfg))
    images = ImageDataset(pack, np.arange(len(pack.table)), eval_transform(training.card.input))
    x, targets = features(training, images), pack.targets
    groups, paths = pack.table["group"].to_numpy(), pack.table["path"].to_numpy()
    find_issues = _multi_label_issues if pack.task.is_multi_label else _issues
    rows = [
        {
            "path": paths[issue.image],
            "label": pack.table["label"].iloc[issue.image],
            "suggested": issue.suggested,
            "own_probability": f"{issue.own_probability:.4f}",
            "suggested_probability": f"{issue.suggested_probability:.4f}",
        }
        for issue in find_issues(x, targets, groups, pack.classes)
    ]
    with atomic.replace_file(data_dir / "audit.csv") as part:
        tables.write(part, rows, COLUMNS)
    return rows


@stage
def main(cfg: DictConfig) -> None:
    rows, task = audit(cfg, ROOT / "data" / cfg.data.name), tasks.of(cfg.data.task)
    first = f", first {rows[0]['path']}: {task.display(rows[0]['suggested'])}?" if rows else ""
    log.result(f"{len(rows)} suspicious labels{first} (data/{cfg.data.name}/audit.csv)")


if __name__ == "__main__":
    main()
