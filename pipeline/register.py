"""Stage register: registers every candidate as a version, and sets the alias `champion`.

The best candidate on validation is the challenger. It replaces an existing champion only if it wins a paired
test on the test split. No other decision uses the test split, and each use is counted.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from pipeline import tracking
from pipeline.artifacts import atomic, onnx_export, seal
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common import log, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.evaluation import ranking
from pipeline.portable import OnnxClassifier
from pipeline.stage import stage
from pipeline.tasks.metrics import mcnemar

_log = logging.getLogger(__name__)

PARTS = ("train", "evaluation", "portable")  # folders of a `ModelFolder`, and of the champion's copy
SHARED = 0.9  # of the champion's test images that a challenger was tested on too, for a paired test
ATTEMPTS = 5  # to copy the champion's files, while users may change the champion

# Allowed differences in probability, per image and on average. Float32 sums in another order, and ONNX
# resizing differs from Pillow by one of 255 levels in some pixels; larger differences mean a wrong export.
MAX_DIFFERENCE, MAX_MEAN_DIFFERENCE = 1e-2, 1e-3


def check_export(candidate: ModelFolder, data_dir: Path) -> None:
    """Compares the exported model with the evaluated one on the whole test split.

    Raises:
        UserError: probabilities differ by more than MAX_DIFFERENCE for an image or MAX_MEAN_DIFFERENCE on
            average, or the evaluation is damaged.
    """
    from pipeline.data.dataset import ImageDataset, PackedDataset

    pack = PackedDataset.open(data_dir)
    model = OnnxClassifier(candidate.portable)
    images = ImageDataset(pack, pack.rows("test"), lambda picture, *_: picture, seed=0)
    exported = np.stack([model.probabilities(images.image(row)) for row in range(len(images))])
    file = candidate.evaluation / "probabilities.npy"
    try:
        evaluated = np.load(file, allow_pickle=False)
        if evaluated.shape != exported.shape:
            raise ValueError(evaluated.shape)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is damaged or from other data; run: dvc repro evaluate") from error
    differences = np.abs(exported - evaluated).max(axis=1)
    if not (differences.max() <= MAX_DIFFERENCE and differences.mean() <= MAX_MEAN_DIFFERENCE):
        raise UserError(
            f"{candidate.portable}: the exported model differs from the evaluated one "
            f"by up to {differences.max():.4f} in probability, {differences.mean():.4f} on average"
        )


def decide(challenger: ModelFolder, champion: ModelFolder | None, significance: float) -> dict:
    """Decides whether the challenger becomes champion, and why.

    Uses the exact McNemar test on the images that only one of the two gets right, among those that both were
    tested on.

    Args:
        challenger: the best candidate on validation.
        champion: the current champion, or None.
        significance: significance level of the two-sided test.

    Returns:
        `promoted`, `reason`, and `paired_test` (wins, losses, p), which is None if there was no test.
    """
    if champion is None:
        return _without_test("the first champion", promoted=True)
    if challenger.card.classes != champion.card.classes:
        return _without_test("the champion before it knew another list of classes", promoted=True)
    ours, theirs = (
        dict(zip(each.test_images(), each.test_correct(), strict=True)) for each in (challenger, champion)
    )
    shared = [image for image in theirs if image in ours]
    # A test split may have grown, as labels do; after another split few images are the same.
    if len(shared) < SHARED * len(theirs):
        return _without_test("the champion before it was judged on another test split", promoted=True)
    right = np.array([ours[image] for image in shared])
    wins, losses, p = mcnemar(right, np.array([theirs[image] for image in shared]))
    promoted = wins > losses and p < significance
    verdict = "significantly better" if promoted else "not significantly better"
    reason = (
        f"{verdict} than the champion on {len(right)} test pictures: {wins} won, {losses} lost, p = {p:.3f}"
    )
    return {"promoted": promoted, "reason": reason, "paired_test": {"wins": wins, "losses": losses, "p": p}}


def _without_test(reason: str, promoted: bool) -> dict:
    return {"promoted": promoted, "reason": reason, "paired_test": None}


def challenger(candidates: dict[str, ModelFolder]) -> str:
    """Name of the best candidate on validation; ties go to the cheapest, then to params.yaml's order."""
    metrics = {name: candidate.metrics for name, candidate in candidates.items()}
    monitor = next(iter(candidates.values())).task.monitor
    return min(metrics, key=lambda name: (-metrics[name][monitor], ranking.cost(metrics[name])))


def register(runs: Path, data_dir: Path, models: list[str], significance: float) -> dict:
    """Registers the candidates of a data set and decides which is champion.

    The current champion is the only thing that a stage reads from MLflow, because users set the alias there.
    A lost registry can be restored from the stage's outputs: ``register/decision.json``, the exported models
    in ``register/candidates/``, and all files of the champion, old or new, in ``register/champion/``.

    Args:
        runs: ``runs/<name>``, the data set's folder.
        data_dir: ``data/<name>``, its folder.
        models: names of the candidates.
        significance: significance level of the paired test.

    Returns:
        The content of ``decision.json``.

    Raises:
        UserError: a candidate or the current champion is damaged.
    """
    name, out = runs.name, runs / "register"
    candidates, versions = {}, {}
    for model in models:
        candidate = ModelFolder(runs / "train" / model, runs / "evaluate" / model, out / "candidates" / model)
        seal.check(candidate.evaluation)
        onnx_export.to_onnx(candidate.train, candidate.portable)
        check_export(candidate, data_dir)
        candidates[model] = candidate
        versions[model] = tracking.ensure_version(candidate.train, candidate.evaluation, candidate.portable)
        _log.info("%s is version %s of %s", model, versions[model], name)
    best = challenger(candidates)
    outcome = None
    for _ in range(ATTEMPTS):
        current = tracking.champion(name)
        champion = _champion_files(name, current, candidates, out / "former")
        if outcome is None or champion is None:
            outcome = _outcome(name, versions[best], candidates[best], champion, current, significance)
            if outcome["promoted"]:
                try:
                    previous = current[0] if current else None
                    tracking.promote(name, versions[best], outcome["reason"], instead_of=previous)
                except tracking.ChampionChangedError:
                    outcome = None  # decided against another champion
                    continue
                champion, current = candidates[best], (versions[best], candidates[best].sha256)
        _copy(champion, out / "champion")
        if tracking.champion(name) in (current, None):
            break
        _log.info("the champion of %s has changed; copying its files again", name)
    else:
        raise UserError(f"the champion of {name} changed {ATTEMPTS} times meanwhile; run again: dvc repro")
    champion = ModelFolder(*(out / "champion" / part for part in PARTS))
    shutil.rmtree(out / "former", ignore_errors=True)
    decision = {
        "candidates": {model: candidate.sha256 for model, candidate in candidates.items()},
        "challenger": best,
        **outcome,
        "looks": tracking.count_test_comparisons(name, candidates[best].lineage["data"]["split"]),
        "champion": {
            "model": champion.card.name,
            "sha256": champion.sha256,
            champion.task.test_key: champion.test_metrics[champion.task.test_key],
            "reason": tracking.promotion_reason(name, current[0]),
        },
    }
    (out / "decision.json").write_text(json.dumps(decision, indent=2) + "\n", encoding="utf-8")
    return decision


def _champion_files(
    name: str, current: tuple[str, str] | None, candidates: dict[str, ModelFolder], downloaded: Path
) -> ModelFolder | None:
    """The champion's folders, downloaded unless it is one of the candidates; None if there is no champion.

    Args:
        name: the registered model.
        current: the champion's version and model hash, or None.
        candidates: by model name.
        downloaded: the folder to download to.
    """
    if current is None:
        return None
    for candidate in candidates.values():
        if candidate.sha256 == current[1]:
            return candidate  # its files are here, evaluated by the current code
    shutil.rmtree(downloaded, ignore_errors=True)
    tracking.download_version(name, current[0], downloaded)
    champion = ModelFolder(*(downloaded / part for part in PARTS))
    onnx_export.to_onnx(champion.train, champion.portable)  # the version may be in an older format
    return champion


def _outcome(
    name: str,
    number: str,
    challenger: ModelFolder,
    champion: ModelFolder | None,
    current: tuple[str, str] | None,
    significance: float,
) -> dict:
    """The result of `decide`, unless the test is not needed; records each use of the test split in MLflow."""
    withdrawn = tracking.withdrawn(name, number)
    if champion is challenger:
        return _without_test("the challenger is the champion already", promoted=False)
    if champion and withdrawn:  # a user's decision holds until a user changes it
        return _without_test(f"the challenger was taken out of office: {withdrawn}", promoted=False)
    outcome = decide(challenger, champion, significance)
    if outcome["paired_test"]:
        tracking.tag_test_comparison(name, number, current[1], outcome["reason"])
    return outcome


def _copy(champion: ModelFolder, target: Path) -> None:
    for part in PARTS:
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(getattr(champion, part), target / part)


@stage
def main(cfg: DictConfig) -> None:
    runs = ROOT / "runs" / cfg.data.name
    with tracking.reachable():
        # DVC has cleared the folder; a manual run clears it here, once MLflow is reachable.
        folder = runs / "register"
        atomic.check_unchanged(
            folder, str(seal.relative_to_root(folder)), "move it away", "decision.json", recursive=True
        )
        shutil.rmtree(folder, ignore_errors=True)
        decision = register(runs, ROOT / "data" / cfg.data.name, list(cfg.models), cfg.register.significance)
    champion = decision["champion"]
    result = ModelFolder(runs / "register/champion/train").task.describe(champion, "test", 1)
    log.result(
        f"champion is {champion['model']} (test {result}); "
        f"challenger {decision['challenger']}: {text.shortened(decision['reason'], 300)}"
    )


if __name__ == "__main__":
    main()
