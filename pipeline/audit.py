"""Stage audit: labels that a model taught by the other pictures would not give.

Each picture is judged by a linear head that never saw it or a near-duplicate of it; cleanlab ranks those
whose own label is improbable against what is usual in its class. It is a hint where to look, not a verdict:
a rare pose is as suspicious as a wrong label. Nothing is relabelled, and no other stage but the report reads
the answer.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from pipeline import tasks
from pipeline.artifacts import atomic
from pipeline.common import tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.stage import stage
from pipeline.tasks import SEPARATOR

COLUMNS = ("path", "label", "suggested", "own_probability", "suggested_probability")
FOLDS = 5
# scikit-learn's C and tol. From 0.1 to 1.0 heads are alike on validation; a tenfold tolerance took a third of
# the time and moved the share of right answers by less than a point.
STRENGTH = 0.1
TOLERANCE = 1e-3


def out_of_fold(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of pictures by heads that saw neither them nor any of their group.

    Args:
        features: N×C.
        targets: class number of each picture, N.
        groups: of near-duplicates, N.

    Returns:
        Probabilities, N×classes, and whether each picture could be judged, N bool: not where its class has no
        picture outside its own group, and not where there are fewer than two such classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros((len(targets), targets.max() + 1))
    judged = np.zeros(len(targets), dtype=bool)
    pairs = np.unique(np.stack([targets, groups], axis=1), axis=0)
    known, spread = np.unique(pairs[:, 0], return_counts=True)  # different groups of each class
    known, spread = known[spread > 1], spread[spread > 1]
    if len(known) < 2:
        return probabilities, judged
    rows = np.flatnonzero(np.isin(targets, known))
    x, y, together = features[rows], targets[rows], groups[rows]
    folds = list(StratifiedGroupKFold(min(FOLDS, int(spread.min()))).split(x, y, together))
    for seen, unseen in folds:
        judged[rows[unseen]] = np.isin(y[unseen], y[seen])
    head = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, tol=TOLERANCE, max_iter=1000))
    probabilities[np.ix_(rows, known)] = cross_val_predict(head, x, y, cv=folds, method="predict_proba")
    return probabilities, judged


def suspicious(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Places of the pictures whose label cleanlab doubts, the least probable labels first.

    By confident learning (Northcutt et al. 2021, arXiv:1911.00068): a class counts as suggested only where
    its probability is above the usual one of that class's own pictures.

    Args:
        probabilities: out of fold, N×classes.
        targets: class number of each picture, N.
    """
    from cleanlab.filter import find_label_issues

    if len(np.unique(targets)) < 2:
        return np.array([], dtype=np.int64)
    found = find_label_issues(targets, probabilities, filter_by="confident_learning", n_jobs=1)
    # A label that is itself the most probable is no disagreement.
    places = np.flatnonzero(found & (probabilities.argmax(axis=1) != targets))
    return places[np.argsort(probabilities[places, targets[places]], kind="stable")]


class Doubt(NamedTuple):
    """A label that looks wrong: its image, the label that looks right, and the probabilities of both."""

    image: int
    suggested: str
    own: float
    other: float


def _doubts(x: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: list[str]) -> list[Doubt]:
    """Suspicious labels where each image has one, worst first."""
    probabilities, judged = out_of_fold(x, targets, groups)
    known = np.flatnonzero(judged)
    found = []
    for image in known[suspicious(probabilities[known], targets[known])]:
        shares = probabilities[image]
        best = int(shares.argmax())
        found.append(Doubt(image, classes[best], shares[targets[image]], shares[best]))
    return found


def _doubts_of_several(
    x: np.ndarray, targets: np.ndarray, groups: np.ndarray, classes: list[str]
) -> list[Doubt]:
    """Likewise where each image has any number: class by class; the worst class of an image counts."""
    wrong: dict[
        int, dict[int, float]
    ] = {}  # by image, and of its doubted classes the own value's probability
    for number in range(len(classes)):
        has = targets[:, number].astype(np.int64)
        probabilities, judged = out_of_fold(x, has, groups)
        known = np.flatnonzero(judged)
        for image in known[suspicious(probabilities[known], has[known])]:
            wrong.setdefault(int(image), {})[number] = float(probabilities[image, has[image]])
    found = []
    for image, doubted in wrong.items():
        right = [
            name for number, name in enumerate(classes) if bool(targets[image, number]) != (number in doubted)
        ]
        least = min(doubted.values())
        found.append(Doubt(image, SEPARATOR.join(right), least, 1 - least))
    return sorted(found, key=lambda doubt: doubt.own)


def audit(cfg: DictConfig, place: Path) -> list[dict]:
    """Writes ``audit.csv``: the suspicious labels alone, worst first.

    Args:
        cfg: a whole configuration; its model's frozen backbone gives the features, which are kept for it.
        place: the data set's folder.

    Returns:
        The rows: `path`, `label`, `suggested`, and the probabilities of both.

    Raises:
        UserError: the model has no frozen backbone, or there are no packed pictures.
    """
    import torch

    from pipeline.data.dataset import PackedDataset
    from pipeline.training import build
    from pipeline.training.features import features

    if cfg.model.head != "probe":
        raise UserError(f"model={cfg.model.name} has no frozen backbone to audit with; use model=probe")
    pack = PackedDataset.open(place)
    torch.set_num_threads(cfg.runtime.threads)
    training = build.build(cfg, pack)
    training.model.to(build.device(cfg))
    x, targets = features(training, np.arange(len(pack.table))), pack.targets
    groups, paths = pack.table["group"].to_numpy(), pack.table["path"].to_numpy()
    doubted = _doubts_of_several if pack.task.several else _doubts
    rows = [
        {
            "path": paths[doubt.image],
            "label": pack.table["label"].iloc[doubt.image],
            "suggested": doubt.suggested,
            "own_probability": f"{doubt.own:.4f}",
            "suggested_probability": f"{doubt.other:.4f}",
        }
        for doubt in doubted(x, targets, groups, pack.classes)
    ]
    with atomic.replaced(place / "audit.csv") as part:
        tables.write(part, rows, COLUMNS)
    return rows


@stage
def main(cfg: DictConfig) -> None:
    rows, task = audit(cfg, ROOT / "data" / cfg.data.name), tasks.of(cfg.data.task)
    first = text.printable(
        f", first {rows[0]['path']}: {task.display(rows[0]['suggested'])}?" if rows else ""
    )
    print(f"audit: {len(rows)} labels to look at again{first} (data/{cfg.data.name}/audit.csv)")


if __name__ == "__main__":
    main()
