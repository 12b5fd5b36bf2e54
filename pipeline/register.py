"""Stage register: every candidate into the registry once, and a gate before the alias `champion`.

The best on validation is the challenger. Where a champion stands, one paired test on the test split guards
the alias: the one place in the project where the test split decides. The looks are counted.
"""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from pipeline import config, ranking, seal
from pipeline.config import ROOT, UserError

PARTS = ("train", "evaluation", "portable")  # folders of a champion's copy

# In probability, for one picture and on average: float32 in another order of sums, and pixels that the graph
# sizes otherwise than Pillow, by one level of 255 here and there. What is more is a wrong export.
AT_MOST, ON_AVERAGE = 1e-2, 1e-3


@dataclass(frozen=True)
class Candidate:
    """A trained and judged model: three folders with the files of train, evaluate and export."""

    train: Path
    evaluation: Path
    portable: Path

    @property
    def card(self) -> dict:
        return json.loads((self.train / "model.json").read_text())

    @property
    def validation(self) -> dict:
        return json.loads((self.train / "metrics.json").read_text())

    @property
    def test(self) -> dict:
        return json.loads((self.evaluation / "metrics.json").read_text())

    def judged(self) -> list[tuple[str, str]]:
        """Hash and class of the test pictures, in order."""
        return [(row["sha256"], row["label"]) for row in self._predictions()]

    def right(self) -> list[bool]:
        """Whether each test picture's class was found."""
        return [row["label"] == row["predicted"] for row in self._predictions()]

    def _predictions(self) -> list[dict]:
        with open(self.evaluation / "predictions.csv", newline="") as file:
            # By content: an older evaluation has the same pictures by path.
            return sorted(csv.DictReader(file), key=lambda row: (row["sha256"], row["label"]))


def check_export(candidate: Candidate, place: Path) -> None:
    """Makes sure that what is registered answers as what was evaluated, on the whole test split.

    Raises:
        UserError: a picture's probabilities differ by more than AT_MOST, or by ON_AVERAGE over all pictures.
    """
    import numpy as np

    from pipeline.data import Pack, Pictures
    from pipeline.portable import Portable

    pack = Pack.open(place)
    model = Portable(candidate.portable)
    pictures = Pictures(pack, pack.rows("test"), lambda picture, *_: picture, seed=0)
    answers = np.stack([model.probabilities(pictures.picture(row)) for row in range(len(pictures))])
    judged = np.load(candidate.evaluation / "probabilities.npy")
    apart = np.abs(answers - judged).max(axis=1)
    if not (apart.max() <= AT_MOST and apart.mean() <= ON_AVERAGE):
        raise UserError(
            f"{candidate.portable}: the exported model differs from the evaluated one "
            f"by up to {apart.max():.4f} in probability, {apart.mean():.4f} on average"
        )


def decide(challenger: Candidate, champion: Candidate | None, significance: float) -> dict:
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

    from pipeline import scores

    def without_test(reason: str) -> dict:
        return {"promoted": True, "reason": reason, "paired_test": None}

    if champion is None:
        return without_test("the first champion")
    if challenger.card["classes"] != champion.card["classes"]:
        return without_test("the champion before it knew another list of classes")
    if challenger.judged() != champion.judged():
        return without_test("the champion before it was judged on another test split")
    right = np.array(challenger.right())
    wins, losses, p = scores.mcnemar(right, np.array(champion.right()))
    promoted = wins > losses and p < significance
    verdict = "significantly better" if promoted else "not significantly better"
    reason = (
        f"{verdict} than the champion on {len(right)} test pictures: {wins} won, {losses} lost, p = {p:.3f}"
    )
    return {"promoted": promoted, "reason": reason, "paired_test": {"wins": wins, "losses": losses, "p": p}}


def challenger(candidates: dict[str, Candidate]) -> str:
    """Name of the best on validation; of ties the cheapest, then the first of params.yaml's list."""
    judged = {name: candidate.validation for name, candidate in candidates.items()}
    return min(judged, key=lambda name: (-judged[name]["val/top1"], ranking.cost(judged[name])))


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
    from pipeline import graph, tracking

    name, out = runs.name, runs / "register"
    candidates, versions, hashes = {}, {}, {}
    for model in models:
        candidate = Candidate(runs / "train" / model, runs / "evaluate" / model, out / "candidates" / model)
        seal.check(candidate.evaluation)
        graph.to_onnx(candidate.train, candidate.portable)
        check_export(candidate, place)
        candidates[model], hashes[model] = candidate, tracking.model_hash(candidate.train)
        versions[model] = tracking.ensure_version(candidate.train, candidate.evaluation, candidate.portable)
        print(f"register: {model} is version {versions[model]} of {name}", flush=True)
    best = challenger(candidates)
    in_office = tracking.champion(name)
    if in_office and in_office[1] in hashes.values():
        # One of today's candidates: its files are here, judged by today's code.
        (model, *_) = (model for model, known in hashes.items() if known == in_office[1])
        champion = candidates[model]
    elif in_office:
        folders = [out / "former" / part for part in PARTS]
        tracking.download_version(name, in_office[0], out / "former")
        champion = Candidate(*folders)
        graph.to_onnx(champion.train, champion.portable)  # a version may be of an older form
    else:
        champion = None

    taken_back = tracking.withdrawn(name, versions[best])
    if champion is candidates[best]:
        outcome = {"promoted": False, "reason": "the challenger is the champion already", "paired_test": None}
    elif champion and taken_back:  # what a person decided stands until a person changes it
        reason = f"the challenger was taken out of office: {taken_back}"
        outcome = {"promoted": False, "reason": reason, "paired_test": None}
    else:
        outcome = decide(candidates[best], champion, significance)
    if outcome["paired_test"]:
        tracking.count_look(name, versions[best], in_office[1], outcome["reason"])
    if outcome["promoted"]:
        champion = candidates[best]
        tracking.promote(name, versions[best], outcome["reason"])
    for part, source in zip(PARTS, (champion.train, champion.evaluation, champion.portable), strict=True):
        shutil.rmtree(out / "champion" / part, ignore_errors=True)
        shutil.copytree(source, out / "champion" / part)
    shutil.rmtree(out / "former", ignore_errors=True)
    split = json.loads((candidates[best].train / "lineage.json").read_text())["data"]["split"]
    decision = {
        "candidates": hashes,
        "challenger": best,
        **outcome,
        "looks": tracking.looks(name, split),
        "champion": {
            "model": champion.card["name"],
            "sha256": tracking.model_hash(champion.train),
            "test/top1": champion.test["test/top1"],
            "reason": tracking.promoted_because(name, tracking.champion(name)[0]),
        },
    }
    (out / "decision.json").write_text(json.dumps(decision, indent=2) + "\n")
    return decision


@config.stage
def main(cfg: DictConfig) -> None:
    from pipeline import tracking

    runs = ROOT / "runs" / cfg.data.name
    with tracking.reachable():
        # DVC has cleared the folder; a run by hand does the same, once MLflow is there.
        shutil.rmtree(runs / "register", ignore_errors=True)
        decision = register(runs, ROOT / "data" / cfg.data.name, list(cfg.models), cfg.register.significance)
    champion = decision["champion"]
    print(
        f"register: champion is {champion['model']} (test top-1 {champion['test/top1']:.1%}); "
        f"challenger {decision['challenger']}: {decision['reason']}"
    )


if __name__ == "__main__":
    main()
