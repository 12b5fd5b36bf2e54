"""Stage evaluate: evaluates one candidate on the test split, on one device."""

import json
from pathlib import Path

from omegaconf import DictConfig

from pipeline import tasks
from pipeline.artifacts import atomic, resume_state, seal, untrusted
from pipeline.artifacts.seal import model_hash
from pipeline.common import log, tables
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.stage import stage

PHOTOGRAPHS = 60  # number of out-of-domain test images
BATCH_SIZE = 32


def evaluate(train: Path, data_dir: Path, out: Path, threads: int, workers: int) -> dict[str, float]:
    """Evaluates the model of a train folder on the test split.

    Writes ``metrics.json``, ``model.sha256`` (hash of the evaluated model), ``predictions.csv`` (one row per
    test image), ``probabilities.npy`` (float32, images × classes, in the same order), ``classes.csv`` (recall
    and precision per class), ``confusions.csv`` (confused pairs, most frequent first), two plots and
    ``SHA256SUMS``.

    Args:
        train: the train folder.
        data_dir: ``data/<name>``, the data set's folder.
        out: the folder to write.
        threads: number of torch threads.
        workers: number of DataLoader workers.

    Returns:
        The content of ``metrics.json``; ``…/low`` and ``…/high`` are the bounds of 95 % Wilson intervals.

    Raises:
        UserError: the model is damaged or has other classes than the data, or `out` holds something else.
    """
    import numpy as np
    import torch

    from models.classifier import load
    from pipeline.data.dataset import ImageDataset, LooseImages, PackedDataset, eval_transform
    from pipeline.evaluation import mistakes, out_of_domain, predictions

    target = atomic.Target(out, ("metrics.json", "model.sha256", "predictions.csv"))
    target.check()
    torch.set_num_threads(threads)
    seal.check(train)
    model, card = load(train)
    pack = PackedDataset.open(data_dir)
    if card.classes != pack.classes:
        raise UserError(f"{train} was trained on other classes than {data_dir} has; run: dvc repro train")
    rows = pack.rows("test")
    test_set = ImageDataset(pack, rows, eval_transform(card.input))
    probabilities = predictions.predict(model, test_set, BATCH_SIZE, workers)
    assessed = model.task.assess(card, probabilities, test_set.targets)
    photographs = LooseImages(out_of_domain.photo_crops(PHOTOGRAPHS, seed=0), card.input)
    ood = predictions.predict(model, photographs, BATCH_SIZE)
    metrics = {"test/pictures": len(rows), **model.task.evaluate(card, probabilities, test_set.targets)}
    metrics["others/named"] = float(model.task.answers(card, ood).mean())

    with target.replace() as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (folder / "model.sha256").write_text(model_hash(train) + "\n", encoding="utf-8")
        np.save(folder / "probabilities.npy", probabilities)
        table = pack.table.iloc[rows][["path", "sha256"]].assign(
            label=assessed.labels,
            predicted=assessed.predicted,
            probability=[f"{each:.6f}" for each in assessed.certainty],
        )
        tables.write(folder / "predictions.csv", table.to_dict("records"), list(table))
        tables.write(folder / "classes.csv", assessed.classes, ["label", "pictures", "recall", "precision"])
        tables.write(folder / "confusions.csv", assessed.confusions, ["label", "taken_for", "pictures"])
        mistakes.draw(pack, rows, assessed, f"{card.name} on {card.data}, test", folder)
        seal.seal(folder)
    return metrics


@stage
def main(cfg: DictConfig) -> None:
    runs = ROOT / "runs" / cfg.data.name
    name = cfg.model.name
    train, data_dir = runs / "train" / name, ROOT / "data" / cfg.data.name
    if not (train / "model.json").is_file():
        raise UserError(f"runs/{cfg.data.name}/train/{name} has no trained model; run: dvc repro train")
    seal.check(train)
    resume_state.discard(train)
    metrics = evaluate(train, data_dir, runs / "evaluate" / name, cfg.runtime.threads, cfg.runtime.workers)
    task = tasks.of(untrusted.card(train).task)
    log.result(f"{name} on {cfg.data.name}, test {task.describe(metrics, 'test', 2)}")


if __name__ == "__main__":
    main()
