"""Packages import only those below them, and programs start without the heavy libraries."""

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import PROJECT

HEAVY = ("torch", "timm", "mlflow", "pandas", "sklearn", "albumentations", "matplotlib", "onnxruntime")


MODULES = (
    *("fetch", "pack", "split", "audit", "train", "evaluate", "register", "report"),
    *("inference.predict", "inference.export", "inference.serve", "reporting.leaderboard"),
    *("maintenance.champion", "maintenance.reproduce", "maintenance.verify"),
    *("sweeps.show", "tracking.cli", "config.cli"),
)
# A fork for each module: each starts with what `pipeline` and Hydra import, and with nothing of the others.
IMPORTED = """
import importlib, json, os, sys
import hydra, pipeline
for module in sys.argv[2:]:
    if not os.fork():
        importlib.import_module(f"pipeline.{module}")
        found = [name for name in sys.argv[1].split() if name in sys.modules]
        print(json.dumps([module, found]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def heavy(run):
    """The heavy libraries that each program's module imports."""
    done = run(sys.executable, "-c", IMPORTED, " ".join(HEAVY), *MODULES)
    assert done.returncode == 0, done.stdout
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_a_program_starts_without_the_heavy_libraries(heavy, module):
    assert heavy[module] == []


# The packages in docs/architecture.md's table and what each may import, besides `common` and `portable`.
_TABLE = (PROJECT / "docs/architecture.md").read_text()
BELOW = {
    name: set(re.findall(r"`(\w+)/?`", imports))
    for name, imports in re.findall(r"^\| `(\w+)/?` \|.*\|([^|]*)\|$", _TABLE, re.M)
}


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_those_below_it(project, package):
    allowed = {package, "common", "portable", *BELOW[package]}
    used = {}
    folder = project / ("models" if package == "models" else f"pipeline/{package}")
    assert folder.is_dir()
    for file in folder.rglob("*.py"):
        if file.name != "worktree_script.py":  # it runs in another commit's checkout
            used |= {
                _unit(name): file.name for name in _imports(file) if name.startswith(("pipeline", "models"))
            }
    assert {unit: file for unit, file in used.items() if unit not in allowed} == {}


def _unit(name: str) -> str:
    """The project's package or module that a dotted name belongs to."""
    first, *rest = name.split(".")
    return rest[0] if first == "pipeline" else first


def test_every_package_is_in_the_table(project):
    folders = {file.parent.name for file in (project / "pipeline").glob("*/__init__.py")}
    assert {*folders, "models"} == set(BELOW)


@functools.cache
def _imports(file):
    return list(_each_import(file))


def _each_import(file):
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
def test_only_one_module_imports_the_library(project, library, only):
    files = [*(project / "pipeline").rglob("*.py"), *(project / "models").glob("*.py")]
    users = {file for file in files if any(name.split(".")[0] == library for name in _imports(file))}
    assert users
    assert [
        file for file in users if not file.relative_to(project / "pipeline").as_posix().startswith(only)
    ] == []


def test_no_file_outside_the_tasks_names_a_metric(project):
    files = [
        *(project / "pipeline").rglob("*"),
        *(project / "models").glob("*.py"),
        *(project / "conf").rglob("*"),
    ]
    kinds = (".py", ".html", ".js", ".md", ".yaml")
    files = [
        file for file in files if file.suffix in kinds and file.parent.name not in ("tasks", "experiment")
    ]
    assert [file for file in files if re.search(r"\btop-?[135]\b", file.read_text())] == []


def test_the_code_in_a_registered_model_runs_without_the_project(project, tmp_path):
    shutil.copytree(project / "pipeline/portable", tmp_path / "portable")
    code = "import portable, sys; print([name for name in sys.modules if name[:8] == 'pipeline'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_package_data_lists_every_file_that_is_not_python(project):
    data = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in (project / package.replace(".", "/")).glob(pattern)
    }
    kinds = (".html", ".md", ".json", ".yaml", ".js", ".css", ".svg")
    files = [*(project / "pipeline").rglob("*"), *(project / "catalog").rglob("*")]
    assert {file for file in files if file.suffix in kinds} == {
        file for file in listed if file.suffix in kinds
    }


def test_the_pipeline_does_not_import_the_catalog(project):
    files = [*(project / "pipeline").rglob("*.py"), *(project / "models").glob("*.py")]
    assert [file for file in files if any(name.split(".")[0] == "catalog" for name in _imports(file))] == []


# Parts of the catalog and what each must not import: server and helper know each other by the database only.
ABOVE = {
    "store": ("teach", "helper", "web", "app", "cli"),
    "teach": ("helper", "web", "app", "cli"),
    "helper": ("web", "app", "cli"),
    "web": ("helper", "app", "cli"),
}


@pytest.mark.parametrize("part", ABOVE)
def test_a_part_of_the_catalog_imports_none_above_it(project, part):
    used = {
        (file.name, name.split(".")[1])
        for file in (project / "catalog" / part).rglob("*.py")
        for name in _imports(file)
        if name.startswith("catalog.")
    }
    assert {pair for pair in used if pair[1] in ABOVE[part]} == set()


def test_only_the_store_of_the_catalog_uses_sql(project):
    libraries = ("sqlalchemy", "alembic", "sqlite3")
    users = {
        file.relative_to(project / "catalog").parts[0]
        for file in (project / "catalog").rglob("*.py")
        if any(name.split(".")[0] in libraries for name in _imports(file))
    }
    assert users == {"store", "migrations"}
