"""Imports point one way, and what need not be heavy starts light."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import HOUSE

HEAVY = ("torch", "timm", "mlflow", "pandas", "sklearn", "albumentations", "matplotlib", "onnxruntime")


@pytest.mark.parametrize(
    "module",
    [
        *("fetch", "pack", "split", "audit", "train", "evaluate", "register", "report"),
        *("inference.predict", "inference.export", "inference.serve", "reporting.leaderboard"),
        *("maintenance.champion", "maintenance.reproduce", "maintenance.verify"),
        *("sweeps.show", "tracking.cli", "config.cli"),
    ],
)
def test_a_program_starts_without_the_heavy_libraries(run, module):
    code = f"import sys, pipeline.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


# Each package of docs/architecture.md's table with those that it may import, beside `common` and `portable`.
_TABLE = (HOUSE / "docs/architecture.md").read_text()
BELOW = {
    name: set(re.findall(r"`(\w+)/?`", imports))
    for name, imports in re.findall(r"^\| `(\w+)/?` \|.*\|([^|]*)\|$", _TABLE, re.M)
}


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_lies_below_it(house, package):
    allowed = {package, "common", "portable", *BELOW[package]}
    used = {}
    folder = house / ("models" if package == "models" else f"pipeline/{package}")
    assert folder.is_dir()
    for file in folder.rglob("*.py"):
        if file.name != "worktree_script.py":  # it is run in another commit's checkout
            used |= {
                _unit(name): file.name for name in _imports(file) if name.startswith(("pipeline", "models"))
            }
    assert {unit: file for unit, file in used.items() if unit not in allowed} == {}


def _unit(name: str) -> str:
    """The package or module of the project that a dotted name lies in."""
    first, *rest = name.split(".")
    return rest[0] if first == "pipeline" else first


def test_every_package_has_its_place(house):
    folders = {file.parent.name for file in (house / "pipeline").glob("*/__init__.py")}
    assert {*folders, "models"} == set(BELOW)


def _imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and file.parent.name == "portable", f"{file}: a relative import"
            yield f"pipeline.portable.{node.module}"
        elif isinstance(node, ast.ImportFrom):
            whole = node.module == "pipeline"  # then the names are modules
            yield from (f"pipeline.{name.name}" for name in node.names) if whole else [node.module]


@pytest.mark.parametrize(
    ("library", "only"), [("mlflow", "tracking/"), ("albumentations", "data/augment.py")]
)
def test_one_module_alone_imports(house, library, only):
    files = [*(house / "pipeline").rglob("*.py"), *(house / "models").glob("*.py")]
    users = {file for file in files if any(name.split(".")[0] == library for name in _imports(file))}
    assert users
    assert [
        file for file in users if not file.relative_to(house / "pipeline").as_posix().startswith(only)
    ] == []


def test_nothing_outside_the_tasks_names_a_figure_of_one(house):
    files = [*(house / "pipeline").rglob("*"), *(house / "models").glob("*.py"), *(house / "conf").rglob("*")]
    kinds = (".py", ".html", ".js", ".md", ".yaml")
    files = [
        file for file in files if file.suffix in kinds and file.parent.name not in ("tasks", "experiment")
    ]
    assert [file for file in files if re.search(r"\btop-?[135]\b", file.read_text())] == []


def test_what_a_registered_model_carries_runs_without_the_project(house, tmp_path):
    shutil.copytree(house / "pipeline/portable", tmp_path / "portable")
    code = "import portable, sys; print([name for name in sys.modules if name[:8] == 'pipeline'])"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert told.stdout == "[]\n", told.stderr


def test_an_installation_has_the_files_that_are_not_python(house):
    data = tomllib.loads((house / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in (house / package.replace(".", "/")).glob(pattern)
    }
    kinds = (".html", ".md", ".json", ".yaml", ".js", ".css", ".svg")
    assert {file for file in (house / "pipeline").rglob("*") if file.suffix in kinds} == listed
