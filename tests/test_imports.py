"""Imports point one way, and what need not be heavy starts light."""

import ast
import re
import sys

import pytest

HEAVY = ("torch", "timm", "mlflow", "pandas", "sklearn", "albumentations", "matplotlib", "onnxruntime")


@pytest.mark.parametrize(
    "module",
    [
        "fetch",
        "pack",
        "split",
        "audit",
        "train",
        "evaluate",
        "register",
        "report",
        "predict",
        "export",
        "registry",
        "reproduce",
        "serve",
        "sweeps",
        "tracking",
    ],
)
def test_a_stage_starts_without_the_heavy_libraries(run, module):
    code = f"import sys, pipeline.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


def _imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = node.module == "pipeline"  # then the names are modules
            yield from (f"pipeline.{name.name}" for name in node.names) if whole else [node.module]


@pytest.mark.parametrize(("library", "only"), [("mlflow", "tracking"), ("albumentations", "augment")])
def test_one_module_alone_imports(house, library, only):
    files = [*(house / "pipeline").rglob("*.py"), *(house / "models").glob("*.py")]
    users = {file for file in files if any(name.split(".")[0] == library for name in _imports(file))}
    assert users
    # A module, or the modules of a package.
    assert {file.relative_to(house / "pipeline").with_suffix("").parts[0] for file in users} == {only}


def test_models_import_nothing_of_the_pipeline_but_what_reads_cards_and_knows_tasks(house):
    for file in (house / "models").glob("*.py"):
        used = {name for name in _imports(file) if name.startswith("pipeline")}
        assert used <= {"pipeline.portable", "pipeline.tasks"}, file


def test_tasks_lie_below_training_and_evaluation(house):
    for file in (house / "pipeline/tasks").glob("*.py"):
        used = {name for name in _imports(file) if name.startswith(("pipeline", "models"))}
        used = {name for name in used if not name.startswith("pipeline.tasks")}
        assert used <= {"pipeline.calibration", "pipeline.metrics", "pipeline.portable"}, file


def test_nothing_outside_the_tasks_names_a_figure_of_one(house):
    files = [*(house / "pipeline").rglob("*"), *(house / "models").glob("*.py"), *(house / "conf").rglob("*")]
    kinds = (".py", ".html", ".js", ".md", ".yaml")
    files = [
        file for file in files if file.suffix in kinds and file.parent.name not in ("tasks", "experiment")
    ]
    assert [file for file in files if re.search(r"\btop-?[135]\b", file.read_text())] == []


def test_what_a_registered_model_carries_imports_nothing_of_the_project(house):
    assert not any(
        name.startswith(("pipeline", "models", "mlflow")) for name in _imports(house / "pipeline/portable.py")
    )
