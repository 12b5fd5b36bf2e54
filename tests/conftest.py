"""Every test works in a copy of the project in a temporary folder; the checkout is never touched.

The copy's configuration is made small (few drawings, few epochs, small images). `dvc repro` runs there
once, and the tests check what it wrote.
"""

import atexit
import contextlib
import functools
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fork_server
import postgresql
import pytest
from chromium import axe_core
from filelock import FileLock

if "PYTEST_XDIST_WORKER" in os.environ:
    # Registered first, so run last: freeing what torch and the tests have made takes an interpreter seconds.
    atexit.register(os._exit, 0)
pytest.register_assert_rewrite("teach_page")  # its functions assert; tests import it before it is a plugin
CHECKOUT = Path(__file__).resolve().parents[1]
# The workers of pytest-xdist share their parent's folder.
SESSION = Path(os.environ.setdefault("PETFACES_TEST_FOLDER", tempfile.mkdtemp(prefix="petfaces-tests-")))
SESSION_PROCESS = int(os.environ.setdefault("PETFACES_TEST_PROCESS", str(os.getpid())))
if os.getpid() == SESSION_PROCESS:
    atexit.register(shutil.rmtree, SESSION, ignore_errors=True)
FINISHED = SESSION / "finished"  # outputs of the first `dvc repro`
_FOLDER = Path(tempfile.mkdtemp(prefix="petfaces-test-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
PROJECT = _FOLDER / "petfaces"
PYTHON = SESSION / "python/bin/python"  # starts faster than sys.executable, see fork_server.py
# Two workers share the cores: threads of torch and of NumPy's OpenBLAS must not spin while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two spend three times as long on fitting a head
# The environment must not affect the tests: no mirror, no tracking server, no flags of `make test`; and their
# programs would compile the copy's modules again and again.
sys.dont_write_bytecode = False
for _name in (
    "PYTHONDONTWRITEBYTECODE",
    "PETFACES_CATALOG_DATABASE",
    "PETFACES_MIRROR",
    "MLFLOW_TRACKING_URI",
    "LOCAL_RANK",
    "PETFACES_LOG",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
):
    os.environ.pop(_name, None)


def _run(*command: str, cwd: Path = PROJECT, **environment: str) -> subprocess.CompletedProcess:
    """Runs a program with the tests' Python first on PATH; captures stdout and stderr together as text."""
    fork_server.install(SESSION / "python", SESSION_PROCESS)
    path = os.pathsep.join(map(str, (PYTHON.parent, Path(sys.executable).parent, os.environ["PATH"])))
    # MLflow exports this process's tracking URI; a program has to find its own.
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, "PATH": path, "COLUMNS": "150", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def petfaces(*arguments: str) -> None:
    """Runs a ``petfaces`` command in this process; raises SystemExit if it fails."""
    from pipeline.__main__ import main

    try:
        main(list(arguments), prog_name="petfaces")
    except SystemExit as end:
        if end.code:
            raise


def outcome(program: Callable[[], object]) -> int | str | None:
    """Runs a program in this process; returns its last message if the exit status is 1, else the status."""
    messages, status = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(messages):
            program()
    except SystemExit as end:
        status = end.code
    finally:
        sys.stderr.write(messages.getvalue())
    return messages.getvalue().splitlines()[-1] if status == 1 else status


def _change(file: str, *changes: tuple[str, str], project: Path = PROJECT) -> None:
    """Replaces text in a file of the copy; the text must be there."""
    text = (project / file).read_text()
    for old, new in changes:
        assert old in text, f"{file} has no '{old}'"
        text = text.replace(old, new)
    (project / file).write_text(text)


def _copy_files(source: Path, target: Path, names: list[str]) -> None:
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=folder, text=True)


def _copy(target: Path) -> None:
    listed = _git(CHECKOUT, "ls-files", "--cached", "--others", "--exclude-standard")
    names = [name for name in listed.splitlines() if not name.startswith("reports/")]
    _copy_files(CHECKOUT, target, [name for name in names if name != "dvc.lock"])
    # The checkout may have chosen other data (`make petfaces` does); the tests use the sample.
    params = target / "params.yaml"
    params.write_text(re.sub(r"(?m)^data: *\S+", "data: sample", params.read_text()))
    _change(
        "conf/data/sample.yaml", ("per_class: 40", "per_class: 7"), ("side: 48", "side: 32"), project=target
    )
    _change("conf/data/sample.yaml", ("epochs: 18", "epochs: 2"), project=target)
    _change("conf/data/petfaces.yaml", ("side: 96", "side: 32"), ("epochs: 72", "epochs: 1"), project=target)
    _change("conf/model/probe.yaml", ("epochs: 0", "input: {size: 64}\nepochs: 0"), project=target)
    _change("conf/model/scratch.yaml", ("[32, 64, 128, 256]", "[8, 16, 32, 64]"), project=target)
    grid = "[1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]"
    _change("conf/model/base/pretrained.yaml", (grid, "[1e-2, 1e-1, 1.0]"), project=target)
    _change("conf/trainer/cpu.yaml", ("threads: 2", "threads: 1"), project=target)
    _change("conf/model/finetune.yaml", ("size: 192", "size: 64"), ("epochs: 6", "epochs: 1"), project=target)
    _git(target, "init", "-q")
    _git(target, "add", "-A")
    _git(target, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "copy")


# pytest-xdist's controller runs no tests; each worker has its own copy.
if "PYTEST_XDIST_WORKER" in os.environ or not any(word.startswith("-n") for word in sys.argv):
    PROJECT.mkdir()
    _copy(PROJECT)
    # Before any test module is imported, so that `pipeline` and `models` are the copy's in this process, too.
    sys.path.insert(0, str(PROJECT))
    os.environ["PYTHONPATH"] = str(PROJECT)
    os.chdir(PROJECT)

    from pipeline.common import log

    log.setup()  # messages in this process appear as a program's do
    fork_server.dont_wait_for_the_disk()


def _is_unit_tier(config: pytest.Config) -> bool:
    return "not integration" in config.option.markexpr


def pytest_configure(config: pytest.Config) -> None:
    """Starts the fork server while the tests are collected, unless only those run that start no programs."""
    if not _is_unit_tier(config):
        fork_server.install(SESSION / "python", SESSION_PROCESS)


# Garbage collection would go through all modules again and again.
gc.disable()


def pytest_collection_finish() -> None:
    """Collects garbage from now on, of what the tests make."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # or nanobind lists what it takes for leaks
    gc.enable()


# The files that take more than two seconds, slowest first, so that no worker is idle at the end. It is the
# order of the whole run; it does for the unit tier, too, where some of the first ones take no time.
LONGEST = (
    *("resume", "reproduce", "seal", "catalog_browser", "train", "tracking", "multi_label", "folder", "docs"),
    *("catalog_labelers", "catalog_people_browser", "catalog_database", "catalog_access"),
    *("teach_faults", "teach_browser", "catalog_language", "catalog_watching", "catalog_map"),
    *("catalog_map_browser", "catalog_data_browser", "catalog_import_page", "catalog_data", "catalog_import"),
    *("trainer", "registry", "sweeps", "serve", "page", "predict", "settings", "full_disk", "repro"),
    *("sweep_folder", "catalog_suggestions", "catalog_champions", "features", "config", "export"),
    *("two_at_once", "audit", "imports", "fuzz_cards", "report", "augment", "store", "pack", "copied_store"),
    *("deleted", "models", "untrusted", "catalog_labeling", "catalog_web", "catalog_command", "fetch"),
    *("calibration", "catalog_export", "hostile", "dependencies"),
    *("teach", "teach_strangers_files", "teach_explanation"),
)


def _database(item: pytest.Item) -> str | None:
    """The parameter of `database_url`, if the test has one."""
    return item.callspec.params.get("database_url") if hasattr(item, "callspec") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what `make test-unit` leaves out, and orders the files so that no worker waits.

    In the whole run, one worker starts with a file that needs the finished pipeline, the other with files
    that don't.
    """
    needing = set()
    for item in items:
        if {"run", "repro", "browser"} & set(item.fixturenames):
            item.add_marker("integration")
            needing.add(item.path)
        elif _database(item) == "postgresql":
            item.add_marker("integration")
    rank = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}

    def order(item: pytest.Item) -> tuple:
        first = item.path.name == f"test_{LONGEST[0]}.py"
        waits = item.path in needing and not _is_unit_tier(config)
        return not first, waits, rank.get(item.path.name, len(rank))

    items.sort(key=order)


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the copy."""
    return PROJECT


@pytest.fixture(scope="session")
def run():
    """Runs a program in the copy."""
    return _run


@pytest.fixture(scope="session")
def change():
    """Replaces text in a file of the copy."""
    return _change


@pytest.fixture(scope="session")
def repro(project: Path) -> subprocess.CompletedProcess:
    """The first `dvc repro` in the copy, which registers a champion.

    One worker of pytest-xdist runs it; the others copy its outputs.
    """
    with FileLock(SESSION / "finished.lock"):
        if not FINISHED.is_dir():
            done = _run("dvc", "repro")
            assert done.returncode == 0, done.stdout
            _copy_files(project, FINISHED, _run("git", "ls-files", "--others").stdout.splitlines())
            (FINISHED / "stdout").write_text(done.stdout)
            return done
    output = (FINISHED / "stdout").read_text()
    _copy_files(FINISHED, project, [str(file.relative_to(FINISHED)) for file in FINISHED.rglob("*")])
    # MLflow's database has absolute paths, so it is written again.
    done = _run("python", "-m", "pipeline", "tracking", "sync")
    assert done.returncode == 0, done.stdout
    for backup in project.glob("mlflow.db.*"):
        backup.unlink()
    return subprocess.CompletedProcess(["dvc", "repro"], 0, output)


@pytest.fixture(autouse=True)
def _unnamed_messages():
    """Removes the name that a stage run in this process puts before later messages."""
    from pipeline.common import log

    yield
    log.setup()


@pytest.fixture(scope="session", autouse=True)
def _patterns_once():
    """The patterns for a model's threshold are generated once for all trainings in this process."""
    if module := sys.modules.get("pipeline.evaluation.out_of_domain"):  # unless no test imports it
        module.generated_patterns = functools.cache(module.generated_patterns)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request) -> str:
    """A new database of the catalog: empty for a file in the catalog's folder, then on PostgreSQL."""
    return "" if request.param == "sqlite" else postgresql.session_server().create()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core for `chromium.check_page`; skipped if npm can't provide it."""
    return axe_core(SESSION)


@pytest.fixture
def no_plots():
    """Training in this process draws no plots, which take longer than so small a training."""
    from pipeline.evaluation import mistakes

    with pytest.MonkeyPatch.context() as patched:  # not undone by a test's own monkeypatch.undo()
        patched.setattr(mistakes, "draw", lambda *_: None)
        yield


@pytest.fixture
def restored(project: Path):
    """Restores params.yaml and conf/ after a test that changes them."""
    files = [project / "params.yaml", *(project / "conf").rglob("*.yaml")]
    kept = {file: file.read_bytes() for file in files}
    yield
    for file, data in kept.items():
        if file.read_bytes() != data:
            file.write_bytes(data)
