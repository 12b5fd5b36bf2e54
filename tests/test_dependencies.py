"""Each stage in dvc.yaml lists exactly the code and params that its result depends on."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

DVC = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
STAGES = DVC["stages"]
# These affect results only through values that are params, or not at all: they and what only they import need
# not be listed.
EXCEPTED = (
    *("pipeline/config/", "pipeline/stage.py", "pipeline/tracking/"),
    *("pipeline/common/errors.py", "pipeline/common/paths.py"),
)


def _imported(file: Path) -> Iterator[Path]:
    """The project's files that a file imports, at any level."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{file}: a relative import, which this test does not follow"
            package = ".".join((*file.relative_to(PROJECT).parent.parts, "")) if node.level else ""
            names = [
                f"{package}{node.module}",
                *(f"{package}{node.module}.{name.name}" for name in node.names),
            ]
        else:
            continue
        for name in names:
            path = PROJECT.joinpath(*name.split("."))
            for found in (path / "__init__.py", path.with_suffix(".py")):
                if found.is_file() and not _is_empty(found):
                    yield found


def _is_empty(file: Path) -> bool:
    """Whether a file has nothing but a docstring."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def _needed(stage: str) -> set[str]:
    """Code that a stage's module imports, directly or indirectly, as paths from the root."""
    found, todo = set(), [PROJECT / f"pipeline/{stage}.py"]
    while todo:
        name = (file := todo.pop()).relative_to(PROJECT).as_posix()
        if name not in found and not name.startswith(EXCEPTED):
            found.add(name)
            todo += _imported(file)
    return found


def _listed(stage: str) -> list[str]:
    """Code files and folders among a stage's deps."""
    return [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in ("pipeline", "models")]


def _params(stage: str) -> dict[str, list[str] | None]:
    """The keys of each params file that a stage depends on; None means all."""
    files = [entry for entry in STAGES[stage].get("params", []) if isinstance(entry, dict)]
    return {file: keys for entry in files for file, keys in entry.items()}


def _covers(entry: str, name: str) -> bool:
    """Whether a dep is this file, or a folder that holds it."""
    return name == entry or name.startswith(f"{entry}/")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_all_code_that_it_imports(stage):
    listed = _listed(stage)
    missing = [name for name in _needed(stage) if not any(_covers(entry, name) for entry in listed)]
    assert not missing, f"add to the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_no_module_that_it_does_not_import(stage):
    needed = _needed(stage)
    unused = [entry for entry in _listed(stage) if not any(_covers(entry, name) for name in needed)]
    assert [entry for entry in unused if not entry.endswith((".html", ".md", ".yaml"))] == []


def test_train_depends_on_each_augmentation_and_each_data_value_that_models_use():
    params = _params("train")
    for file in (PROJECT / "conf/augment").glob("*.yaml"):
        assert f"conf/augment/{file.name}" in params
    for group in ("augment", "model"):
        for file in (PROJECT / "conf" / group).glob("*.yaml"):
            used = set(re.findall(r"\$\{data\.(\w+)", file.read_text()))
            assert used <= set(params["conf/data/${data}.yaml"]), file


@pytest.mark.parametrize("stage", ["audit", "train", "evaluate"])
def test_all_trainer_keys_that_affect_results_are_params(stage):
    from pipeline.artifacts.resume_state import IGNORED_TRAINER_KEYS

    for file in (PROJECT / "conf/trainer").glob("*.yaml"):
        runtime = set(yaml.safe_load(file.read_text())["runtime"]) - set(IGNORED_TRAINER_KEYS)
        watched = {"trainer", *(f"runtime.{key}" for key in runtime)}
        assert set(_params(stage)["conf/trainer/${trainer}.yaml"]) == watched


def test_an_augmentation_that_dvc_does_not_watch_is_an_error(project, restored, change):
    from pipeline import train
    from pipeline.common import errors

    (project / "conf/augment/mine.yaml").write_text("transforms: []\nmixup: 0.1\ncutmix: 0.0\n")
    try:
        with pytest.raises(errors.UserError, match=r"conf/augment/mine\.yaml.*dvc\.yaml"):
            train.check_augment_is_tracked("mine")
        change("dvc.yaml", ("      - conf/augment/none.yaml:", "      - conf/augment/mine.yaml:"))
        train.check_augment_is_tracked("mine")
        with pytest.raises(errors.UserError):
            train.check_augment_is_tracked("none")
    finally:
        change("dvc.yaml", ("      - conf/augment/mine.yaml:", "      - conf/augment/none.yaml:"))
        (project / "conf/augment/mine.yaml").unlink()
