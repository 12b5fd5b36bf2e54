"""Stage register: every candidate into the registry once, and a gate before the alias `champion`.

The best on validation is the challenger. Where a champion stands, one paired test on the test split guards
the alias: the one place in the project where the test split decides. The looks are counted.
"""

import json
import shutil
from pathlib import Path

from omegaconf import DictConfig

from pipeline.artifacts import atomic, seal
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.evaluation import ranking
from pipeline.stage import stage

PARTS = ("train", "evaluation", "portable")  # folders of a champion's copy

TRIES = 5  # as often as somebody may change the champion while its files are copied

# In probability, for one picture and on average: float32 in another order of sums, and pixels that the graph
# sizes otherwise than Pillow, by one level of 255 here and there. What is more is a wrong export.
AT_MOST, ON_AVERAGE = 1e-2, 1e-3


def check_export(candidate: ModelFolder, place: Path) -> None:
    """Makes sure that what is registered answers as what was evaluated, on the whole test split.

    Raises:
        UserError: a picture's probabilities differ by more than AT_MOST, or by ON_AVERAGE over all pictures.
    """
    import numpy as np

    from pipeline.data.dataset import ImageDataset, PackedDataset
    from pipeline.portable import OnnxClassifier

    pack = PackedDataset.open(place)
    model = OnnxClassifier(candidate.portable)
    pictures = ImageDataset(pack, pack.rows("test"), lambda picture, *_: picture, seed=0)
    answers = np.stack([model.probabilities(pictures.picture(row)) for row in range(len(pictures))])
    try:
        judged = np.load(candidate.evaluation / "probabilities.npy", allow_pickle=False)
        if judged.shape != answers.shape:
            raise ValueError(judged.shape)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{candidate.evaluation}/probabilities.npy is damaged or of other data") from error
    apart = np.abs(answers - judged).max(axis=1)
    if not (apart.max() <= AT_MOST and apart.mean() <= ON_AVERAGE):
        raise UserError(
            f"{candidate.portable}: the exported model differs from the evaluated one "
            f"by up to {apart.max():.4f} in probability, {apart.mean():.4f} on average"
        )


def decide(challenger: ModelFolder, champion: ModelFolder | None, significance: float) -> dict:
    """Whether the challenger becomes champion, and why.

    The test is McNemar's, exact: of the pictures on which the two differ, the challenger must win more than
    chance would let it.

    Args:
        challenger: the best on validation.
        champion: the one in office, or None.
        significance: level of the test, two-sided.

    Returns:
        `promoted`, `reason`, and `paired_test` (wins, losses, p), which is None where none was made.
    """
    import numpy as np

    from pipeline.tasks import metrics

    def without_test(reason: str) -> dict:
        return {"promoted": True, "reason": reason, "paired_test": None}

    if champion is None:
        return without_test("the first champion")
    if challenger.card.classes != champion.card.classes:
        return without_test("the champion before it knew another list of classes")
    if challenger.judged() != champion.judged():
        return without_test("the champion before it was judged on another test split")
    right = np.array(challenger.right())
    wins, losses, p = metrics.mcnemar(right, np.array(champion.right()))
    promoted = wins > losses and p < significance
    verdict = "significantly better" if promoted else "not significantly better"
    reason = (
        f"{verdict} than the champion on {len(right)} test pictures: {wins} won, {losses} lost, p = {p:.3f}"
    )
    return {"promoted": promoted, "reason": reason, "paired_test": {"wins": wins, "losses": losses, "p": p}}


def challenger(candidates: dict[str, ModelFolder]) -> str:
    """Name of the best on validation; of ties the cheapest, then the first of params.yaml's list."""
    judged = {name: candidate.metrics for name, candidate in candidates.items()}
    decides = next(iter(candidates.values())).task.monitor
    return min(judged, key=lambda name: (-judged[name][decides], ranking.cost(judged[name])))


def register(runs: Path, place: Path, models: list[str], significance: float) -> dict:
    """Registers the candidates of a data set and settles who is champion.

    Who is in office is the one thing that a stage asks of MLflow: the registry is where people set the alias.
    What the stage leaves restores a lost registry: ``register/decision.json``, the exported models in
    ``register/candidates/``, and all files of the champion, old or new, in ``register/champion/``.

    Args:
        runs: the data set's folder under ``runs/``.
        place: its folder under ``data/``.
        models: names of the candidates.
        significance: of the paired test.

    Returns:
        What ``decision.json`` says.

    Raises:
        UserError: a candidate or the champion in office is damaged.
    """
    from pipeline import tracking
    from pipeline.artifacts import onnx_export

    name, out = runs.name, runs / "register"
    candidates, versions, hashes = {}, {}, {}
    for model in models:
        candidate = ModelFolder(runs / "train" / model, runs / "evaluate" / model, out / "candidates" / model)
        seal.check(candidate.evaluation)
        onnx_export.to_onnx(candidate.train, candidate.portable)
        check_export(candidate, place)
        candidates[model], hashes[model] = candidate, candidate.sha256
        versions[model] = tracking.ensure_version(candidate.train, candidate.evaluation, candidate.portable)
        print(f"register: {model} is version {versions[model]} of {name}", flush=True)
    best = challenger(candidates)
    outcome = None
    for _ in range(TRIES):
        in_office = tracking.champion(name)
        champion = _in_office(name, in_office, candidates, hashes, out / "former")
        if outcome is None or champion is None:
            outcome = _judge(name, versions[best], candidates[best], champion, in_office, significance)
            if outcome["promoted"]:
                try:
                    former = in_office[0] if in_office else None
                    tracking.promote(name, versions[best], outcome["reason"], instead_of=former)
                except tracking.ChampionChangedError:
                    outcome = None  # it was about another champion
                    continue
                champion, in_office = candidates[best], (versions[best], hashes[best])
        _copy(champion, out / "champion")
        if tracking.champion(name) in (in_office, None):
            break
        print(f"register: the champion of {name} was changed; its files are copied anew", flush=True)
    else:
        raise UserError(f"the champion of {name} was changed {TRIES} times meanwhile; run again: dvc repro")
    shutil.rmtree(out / "former", ignore_errors=True)
    split = json.loads((candidates[best].train / "lineage.json").read_text(encoding="utf-8"))["data"]["split"]
    decision = {
        "candidates": hashes,
        "challenger": best,
        **outcome,
        "looks": tracking.looks(name, split),
        "champion": {
            "model": champion.card.name,
            "sha256": champion.sha256,
            champion.task.test_key: champion.test_metrics[champion.task.test_key],
            "reason": tracking.promoted_because(name, in_office[0]),
        },
    }
    (out / "decision.json").write_text(json.dumps(decision, indent=2) + "\n", encoding="utf-8")
    return decision


def _in_office(
    name: str,
    in_office: tuple[str, str] | None,
    candidates: dict[str, ModelFolder],
    hashes: dict[str, str],
    former: Path,
) -> ModelFolder | None:
    """The files of the champion, fetched into `former` where it is none of the candidates."""
    from pipeline import tracking
    from pipeline.artifacts import onnx_export

    if in_office is None:
        return None
    for model, known in hashes.items():
        if known == in_office[1]:
            return candidates[model]  # its files are here, judged by today's code
    shutil.rmtree(former, ignore_errors=True)
    tracking.download_version(name, in_office[0], former)
    champion = ModelFolder(*(former / part for part in PARTS))
    onnx_export.to_onnx(champion.train, champion.portable)  # a version may be of an older form
    return champion


def _judge(
    name: str,
    number: str,
    challenger: ModelFolder,
    champion: ModelFolder | None,
    in_office: tuple[str, str] | None,
    significance: float,
) -> dict:
    """What `decide` says, unless there is nothing to decide; a look at the test split is counted."""
    from pipeline import tracking

    taken_back = tracking.withdrawn(name, number)
    if champion is challenger:
        return {"promoted": False, "reason": "the challenger is the champion already", "paired_test": None}
    if champion and taken_back:  # what a person decided stands until a person changes it
        reason = f"the challenger was taken out of office: {taken_back}"
        return {"promoted": False, "reason": reason, "paired_test": None}
    outcome = decide(challenger, champion, significance)
    if outcome["paired_test"]:
        tracking.count_look(name, number, in_office[1], outcome["reason"])
    return outcome


def _copy(champion: ModelFolder, target: Path) -> None:
    for part, source in zip(PARTS, (champion.train, champion.evaluation, champion.portable), strict=True):
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(source, target / part)


@stage
def main(cfg: DictConfig) -> None:
    from pipeline import tracking

    runs = ROOT / "runs" / cfg.data.name
    with tracking.reachable():
        # DVC has cleared the folder; a run by hand does the same, once MLflow is there.
        place = runs / "register"
        atomic.check_own(place, str(seal.near(place)), "move it away", "decision.json", below=True)
        shutil.rmtree(place, ignore_errors=True)
        decision = register(runs, ROOT / "data" / cfg.data.name, list(cfg.models), cfg.register.significance)
    champion = decision["champion"]
    reached = ModelFolder(runs / "register/champion/train").task.describe(champion, "test", 1)
    print(
        f"register: champion is {champion['model']} (test {reached}); "
        f"challenger {decision['challenger']}: {text.shortened(decision['reason'], 300)}"
    )


if __name__ == "__main__":
    main()
