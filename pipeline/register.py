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

from pipeline import config
from pipeline.config import ROOT, UserError

# float32 in another order of sums; what is more than that is a wrong export.
TOLERANCE = 1e-3


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
        """Path and class of the test pictures, in order."""
        return [(row["path"], row["label"]) for row in self._predictions()]

    def right(self) -> list[bool]:
        """Whether each test picture's class was found."""
        return [row["label"] == row["predicted"] for row in self._predictions()]

    def _predictions(self) -> list[dict]:
        with open(self.evaluation / "predictions.csv", newline="") as file:
            return list(csv.DictReader(file))


def check_export(candidate: Candidate, place: Path) -> None:
    """Makes sure that what is registered answers as what was evaluated, on the whole test split.

    Raises:
        UserError: a probability differs by more than TOLERANCE.
    """
    import numpy as np

    from pipeline.data import Pack, Pictures
    from pipeline.portable import Portable

    pack = Pack.open(place)
    model = Portable(candidate.portable)
    pictures = Pictures(pack, pack.rows("test"), lambda picture, seed: picture, seed=0)
    answers = model.probabilities(
        np.stack([model.prepare(pictures.picture(row)) for row in range(len(pictures))])
    )
    judged = np.load(candidate.evaluation / "probabilities.npy")
    apart = float(np.abs(answers - judged).max())
    if not apart <= TOLERANCE:
        raise UserError(
            f"{candidate.portable}: the exported model differs from the evaluated one "
            f"by {apart:.4f} in probability"
        )


def decide(challenger: Candidate, champion: Candidate | None, looks: int, significance: float) -> dict:
    """Whether the challenger becomes champion, and why.

    The test is McNemar's, exact: of the pictures on which the two differ, the challenger must win more than
    chance would let it.

    Args:
        challenger: the best on validation.
        champion: the one in office, or None.
        looks: paired tests made on this test split so far.
        significance: level of the test, two-sided.

    Returns:
        `promoted`, `reason`, `paired_test` (wins, losses, p) or None, and the new number of `looks`.
    """
    from scipy.stats import binomtest

    if champion is None:
        return {"promoted": True, "reason": "the first champion", "paired_test": None, "looks": 0}
    if challenger.card["classes"] != champion.card["classes"]:
        reason = "the champion knew another list of classes"
        return {"promoted": True, "reason": reason, "paired_test": None, "looks": 0}
    if challenger.judged() != champion.judged():
        reason = "the champion was judged on another test split"
        return {"promoted": True, "reason": reason, "paired_test": None, "looks": 0}
    pairs = list(zip(challenger.right(), champion.right(), strict=True))
    wins, losses = pairs.count((True, False)), pairs.count((False, True))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    promoted = wins > losses and p < significance
    verdict = "significantly better" if promoted else "not significantly better"
    reason = (
        f"{verdict} than the champion on {len(pairs)} test pictures: {wins} won, {losses} lost, p = {p:.3f}"
    )
    return {
        "promoted": promoted,
        "reason": reason,
        "paired_test": {"wins": wins, "losses": losses, "p": p},
        "looks": looks + 1,
    }


def _in_office(name: str, kept: Path) -> Candidate | None:
    """The present champion's files: of MLflow's alias, which a person may have set, else the kept copy."""
    from pipeline import tracking

    folders = [kept / part for part in ("train", "evaluation", "portable")]
    here = Candidate(*folders) if all(folder.is_dir() for folder in folders) else None
    alias = tracking.champion(name)
    if alias is None or (here and tracking.weights_hash(here.train) == alias[1]):
        return here
    shutil.rmtree(kept, ignore_errors=True)
    tracking.download_version(name, alias[0], kept)
    return Candidate(*folders)


def register(runs: Path, place: Path, models: list[str], significance: float) -> dict:
    """Registers the candidates of a data set and settles who is champion.

    Writes ``register/decision.json``, the exported models in ``register/candidates/``, and the champion's
    files in ``register/champion/``: they are what restores a lost registry.

    Args:
        runs: the data set's folder under ``runs/``.
        place: its folder under ``data/``.
        models: names of the candidates.
        significance: of the paired test.

    Returns:
        What ``decision.json`` says.
    """
    from pipeline import export, tracking

    out = runs / "register"
    decision_file = out / "decision.json"
    former = json.loads(decision_file.read_text()) if decision_file.is_file() else {}
    candidates, versions = {}, {}
    shutil.rmtree(out / "candidates", ignore_errors=True)
    for name in models:
        candidate = Candidate(runs / "train" / name, runs / "evaluate" / name, out / "candidates" / name)
        export.to_onnx(candidate.train, candidate.portable)
        check_export(candidate, place)
        candidates[name] = candidate
        versions[name] = tracking.ensure_version(candidate.train, candidate.evaluation, candidate.portable)
        print(f"register: {name} is version {versions[name]} of {runs.name}", flush=True)
    # Between equals the first of params.yaml's list.
    best = max(models, key=lambda name: candidates[name].validation["val/top1"])
    challenger = candidates[best]
    champion = _in_office(runs.name, out / "champion")
    if champion and tracking.weights_hash(champion.train) == tracking.weights_hash(challenger.train):
        outcome = {
            "promoted": False,
            "reason": former.get("reason", "the challenger is the champion already"),
            "paired_test": None,
            "looks": former.get("looks", 0),
        }
    else:
        outcome = decide(challenger, champion, former.get("looks", 0), significance)
    if outcome["promoted"]:
        shutil.rmtree(out / "champion", ignore_errors=True)
        for part, source in (
            ("train", challenger.train),
            ("evaluation", challenger.evaluation),
            ("portable", challenger.portable),
        ):
            shutil.copytree(source, out / "champion" / part)
        tracking.promote(runs.name, versions[best], outcome["reason"])
    elif champion:
        # The alias may be missing though the files tell of a champion: a lost database.
        number = tracking.ensure_version(champion.train, champion.evaluation, champion.portable)
        if tracking.champion(runs.name) is None:
            tracking.promote(runs.name, number, outcome["reason"])
    office = Candidate(*(out / "champion" / part for part in ("train", "evaluation", "portable")))
    decision = {
        "challenger": best,
        "champion": {
            "model": office.card["name"],
            "weights": tracking.weights_hash(office.train),
            "test/top1": office.test["test/top1"],
        },
        **outcome,
    }
    decision_file.write_text(json.dumps(decision, indent=2) + "\n")
    return decision


@config.stage
def main(cfg: DictConfig) -> None:
    decision = register(
        ROOT / "runs" / cfg.data.name,
        ROOT / "data" / cfg.data.name,
        list(cfg.models),
        cfg.register.significance,
    )
    champion = decision["champion"]
    print(
        f"register: champion is {champion['model']} (test top-1 {champion['test/top1']:.1%}); "
        f"challenger {decision['challenger']}: {decision['reason']}"
    )


if __name__ == "__main__":
    main()
