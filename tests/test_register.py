"""Which candidate becomes champion: the first, one on other data, or a significantly better one."""

import csv
import json
import shutil

import pytest
from untrusted_models import CARD

from pipeline import register
from pipeline.artifacts.model_folder import ModelFolder


def _candidate(root, correct, classes=("a", "b"), paths=None) -> ModelFolder:
    """A candidate whose test predictions are correct where `correct` is true."""
    folders = [root / folder for folder in ("train", "evaluation", "portable")]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "model.json").write_text(json.dumps(CARD | {"classes": list(classes), "species": [""] * 2}))
    with open(folders[1] / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sha256", "label", "predicted"])
        for number, is_correct in enumerate(correct):
            writer.writerow([(paths or "p{}").format(number), "a", "a" if is_correct else "b"])
    return ModelFolder(*folders)


def _decide(tmp_path, challenger, champion, **other):
    new = _candidate(tmp_path / "new", challenger)
    old = _candidate(tmp_path / "old", champion, **other)
    return register.decide(new, old, significance=0.05)


def test_the_first_candidate_becomes_champion(tmp_path):
    outcome = register.decide(_candidate(tmp_path, [True]), None, 0.05)
    assert outcome == {"promoted": True, "reason": "the first champion", "paired_test": None}


def test_a_significant_win_is_promoted(tmp_path):
    outcome = _decide(tmp_path, [True] * 90 + [False] * 10, [True] * 80 + [False] * 20)
    assert outcome["promoted"]
    assert outcome["paired_test"]["wins"] == 10


def test_a_win_within_the_noise_is_not_promoted(tmp_path):
    outcome = _decide(tmp_path, [True] * 83 + [False] * 17, [True] * 80 + [False] * 20)
    assert not outcome["promoted"]
    assert "not significantly better" in outcome["reason"]


def test_a_significant_loss_is_not_promoted(tmp_path):
    assert not _decide(tmp_path, [True] * 60 + [False] * 40, [True] * 90 + [False] * 10)["promoted"]


def test_equal_predictions_are_not_promoted(tmp_path):
    assert not _decide(tmp_path, [True, False], [True, False])["promoted"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"paths": "q{}"}, "another test split"), ({"classes": ("a", "c")}, "another list of classes")],
)
def test_a_champion_evaluated_on_other_data_is_replaced_untested(tmp_path, other, reason):
    outcome = _decide(tmp_path, [False] * 9, [True] * 9, **other)
    assert outcome["promoted"]
    assert reason in outcome["reason"]
    assert outcome["paired_test"] is None


def test_a_champion_is_tested_on_the_images_that_a_grown_test_split_shares(tmp_path):
    better = _candidate(tmp_path / "better", [True] * 60 + [False] * 40)
    worse = _candidate(tmp_path / "worse", [False] * 30 + [True] * 70)
    old = _candidate(tmp_path / "old", [False] * 30 + [True] * 30)
    assert register.decide(better, old, 0.05)["paired_test"] == {
        "wins": 30,
        "losses": 0,
        "p": pytest.approx(2**-29),
    }
    outcome = register.decide(worse, old, 0.05)  # the others are easy
    assert not outcome["promoted"] and "60 test pictures" in outcome["reason"]


def test_the_cheapest_of_tied_candidates_is_the_challenger(tmp_path):
    costs = {"a": (0.9, 50, 10, 7), "b": (0.9, 20, 20, 7), "c": (0.9, 50, 8, 9), "d": (0.8, 1, 1, 1)}
    candidates = {}
    for name, (top1, each, seen, parameters) in costs.items():
        candidates[name] = _candidate(tmp_path / name, [True])
        metrics = {"val/top1": top1, "multiply_adds": each, "pictures_seen": seen, "parameters": parameters}
        (candidates[name].train / "metrics.json").write_text(json.dumps(metrics))
    # a, b and c tie; b and c cost the same to train, b less per prediction.
    assert register.challenger(candidates) == "b"
    del candidates["b"]
    assert register.challenger(candidates) == "c"


def test_an_export_that_differs_from_the_evaluated_model_is_an_error(repro, project, tmp_path):
    import numpy as np

    runs = project / "runs/sample"
    folders = [runs / "train/scratch", runs / "evaluate/scratch", runs / "register/candidates/scratch"]
    register.check_export(ModelFolder(*folders), project / "data/sample")
    shutil.copytree(folders[1], tmp_path / "other")
    shifted = np.roll(np.load(folders[1] / "probabilities.npy"), 1, axis=1)
    np.save(tmp_path / "other/probabilities.npy", shifted)
    with pytest.raises(register.UserError, match="differs from the evaluated one"):
        register.check_export(
            ModelFolder(folders[0], tmp_path / "other", folders[2]), project / "data/sample"
        )


def test_a_champion_that_is_no_candidate_any_more_stays_with_all_its_files(
    repro, project, tmp_path, monkeypatch
):
    former = json.loads((project / "runs/sample/register/decision.json").read_text())["champion"]
    shutil.copytree(project / "runs/sample", tmp_path / "sample", ignore=shutil.ignore_patterns("register"))
    monkeypatch.setattr(register.tracking, "tag_test_comparison", lambda *_: None)
    others = [name for name in ("scratch", "probe") if name != former["model"]]
    decision = register.register(tmp_path / "sample", project / "data/sample", others, significance=0)
    assert not decision["promoted"] and decision["challenger"] in others
    assert decision["champion"]["sha256"] == former["sha256"]
    champion = tmp_path / "sample/register/champion"
    assert ModelFolder(*(champion / part for part in register.PARTS)).sha256 == former["sha256"]
    assert not (champion.parent / "former").exists()


def test_an_exported_model_holds_no_path_of_this_machine(repro, project):
    for file in (project / "runs/sample/register").rglob("model.onnx"):
        data = file.read_bytes()
        assert str(project).encode() not in data
        assert b"site-packages" not in data
