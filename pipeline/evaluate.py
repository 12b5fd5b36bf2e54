"""Stage evaluate: one candidate on the test split, once, on one device."""

import json
from pathlib import Path

from omegaconf import DictConfig

from pipeline import atomic, config, seal, tables, unfinished
from pipeline.config import ROOT, UserError
from pipeline.portable import ModelCard
from pipeline.seal import model_hash

THINGS = 60  # pictures of other things


def evaluate(train: Path, place: Path, out: Path, threads: int, workers: int) -> dict[str, float]:
    """Judges the model of a train folder.

    Writes ``metrics.json``, ``model.sha256`` (which model was judged), ``predictions.csv`` (a row a test
    picture), ``probabilities.npy`` (float32, pictures × classes, in the same order), ``classes.csv`` (recall
    and precision of each class), ``confusions.csv`` (pairs that were confused, most first), two pictures and
    ``SHA256SUMS``.

    Args:
        train: train's folder.
        place: the data set's folder.
        out: where to.
        threads: of torch.
        workers: that read pictures.

    Returns:
        What ``metrics.json`` says; ``…/low`` and ``…/high`` are the ends of 95 % Wilson intervals.

    Raises:
        UserError: the model is damaged, or knows other classes than the data; or at `out` is something else.
    """
    import numpy as np
    import torch

    from models.classifier import TOP, load
    from pipeline import scores
    from pipeline.data import Pack

    target = atomic.Target(out, ("metrics.json", "model.sha256", "predictions.csv"))
    target.check()
    torch.set_num_threads(threads)
    seal.check(train)
    model, card = load(train)
    pack = Pack.open(place)
    if card.classes != pack.classes:
        raise UserError(f"{train} knows other classes than {place}; run: dvc repro train")
    rows = pack.rows("test")
    targets = pack.table["target"].to_numpy()[rows]
    probabilities = scores.predict(model, card, pack, rows, 32, workers)
    predicted = probabilities.argmax(axis=1)

    metrics: dict[str, float] = {"test/pictures": len(rows)}
    for k in TOP:
        right = scores.topk(probabilities, targets, min(k, len(pack.classes)))
        metrics |= _share(f"test/top{k}", right)
    matrix = scores.confusion_matrix(targets, predicted, len(pack.classes))
    shown = np.maximum(matrix.sum(axis=1), 1)
    recall = matrix.diagonal() / shown
    metrics["test/mean_per_class"] = float(recall[matrix.sum(axis=1) > 0].mean())
    species = scores.species_right(probabilities, targets, card.species)
    if species is not None:
        metrics |= _share("test/species", species)
    metrics["test/calibration_error"] = scores.calibration_error(probabilities, targets)
    metrics |= _silence(model, card, probabilities.max(axis=1), predicted == targets)

    unfinished = target.begin()
    (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (unfinished / "model.sha256").write_text(model_hash(train) + "\n", encoding="utf-8")
    np.save(unfinished / "probabilities.npy", probabilities)
    judged = pack.table.iloc[rows]
    _table(
        unfinished / "predictions.csv",
        ["path", "sha256", "label", "predicted", "probability"],
        [
            [path, sha256, label, pack.classes[guess], f"{row.max():.6f}"]
            for path, sha256, label, guess, row in zip(
                judged["path"], judged["sha256"], judged["label"], predicted, probabilities, strict=True
            )
        ],
    )
    precision = matrix.diagonal() / np.maximum(matrix.sum(axis=0), 1)
    _table(
        unfinished / "classes.csv",
        ["label", "pictures", "recall", "precision"],
        [
            [name, int(matrix[number].sum()), f"{recall[number]:.4f}", f"{precision[number]:.4f}"]
            for number, name in enumerate(pack.classes)
        ],
    )
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    pairs = [divmod(int(place), len(pack.classes)) for place in order]
    _table(
        unfinished / "confusions.csv",
        ["label", "taken_for", "pictures"],
        [[pack.classes[true], pack.classes[guess], int(wrong[true, guess])] for true, guess in pairs],
    )
    scores.draw(pack, rows, probabilities, f"{card.name} on {card.data}, test", unfinished)
    seal.seal(unfinished)
    target.finish()
    return metrics


def _silence(model, card: ModelCard, sure, right) -> dict[str, float]:
    """How often the model speaks, how often it is then right, and how often it names what is no pet.

    Args:
        model: the classifier.
        card: its card.
        sure: highest probability of each test picture.
        right: whether that class is the true one.
    """
    from pipeline import scores, things

    bound = card.unsure_below
    speaks = sure >= bound
    found = _share("test/answered", speaks)
    if speaks.any():
        found |= _share("test/answered/right", right[speaks])
    others = scores.predict_loose(model, card, things.photographed(THINGS, seed=0), 32).max(axis=1)
    return found | {"others/named": float((others >= bound).mean())}


def _share(key: str, right) -> dict[str, float]:
    """A share of independent images, with its interval."""
    from pipeline import scores

    low, high = scores.interval(right)
    return {key: float(right.mean()), f"{key}/low": low, f"{key}/high": high}


def _table(file: Path, columns: list[str], rows: list[list]) -> None:
    tables.write(file, [dict(zip(columns, row, strict=True)) for row in rows], columns)


@config.stage
def main(cfg: DictConfig) -> None:
    runs = ROOT / "runs" / cfg.data.name
    name = cfg.model.name
    if not (runs / "train" / name / "model.json").is_file():
        raise UserError(f"runs/{cfg.data.name}/train/{name} has no trained model; run: dvc repro train")
    seal.check(runs / "train" / name)
    unfinished.taken(runs / "train" / name)
    metrics = evaluate(
        runs / "train" / name,
        ROOT / "data" / cfg.data.name,
        runs / "evaluate" / name,
        cfg.runtime.threads,
        cfg.runtime.workers,
    )
    print(
        f"evaluate: {name} on {cfg.data.name}, test top-1 {metrics['test/top1']:.1%} "
        f"({metrics['test/top1/low']:.1%}–{metrics['test/top1/high']:.1%}), top-3 {metrics['test/top3']:.1%}"
    )


if __name__ == "__main__":
    main()
