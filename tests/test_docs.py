"""README.md and docs/ are right: commands parse, links resolve, and the steps for the sample work."""

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from models.build import build
from pipeline import config
from pipeline.__main__ import main as petfaces
from pipeline.artifacts import curves

CHECKOUT = Path(__file__).resolve().parents[1]
_FILES = (CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *(CHECKOUT / "docs").glob("*.md"))
PAGES = {page.name: page.read_text() for page in _FILES}
STAGES = ("fetch", "pack", "split", "audit", "train", "evaluate", "register", "report")
# Programs whose arguments are not checked.
SHELL = ("cd", "cp", "curl", "eval", "export", "git", "mlflow", "rm", "sed", "sha256sum", "source", "tar")


def _blocks(kind: str) -> list[tuple[str, str]]:
    """(page, text) of the fenced blocks of a kind, continued lines joined."""
    return [
        (name, block.replace("\\\n", " "))
        for name, text in PAGES.items()
        for block in re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


COMMANDS = sorted(
    {
        (page, shlex.join(words))
        for page, block in _blocks("sh")
        for line in block.splitlines()
        if (words := shlex.split(line, comments=True))
    }
    | {
        (page, command)
        for page, text in PAGES.items()
        for command in re.findall(r"`((?:make|dvc|petfaces|python -m) [^`]+)`", text)
        if "…" not in command
    }
)


def test_every_page_shows_commands():
    assert len(COMMANDS) > 25
    assert {page for page, _ in COMMANDS} == set(PAGES)


def _stage(name: str, arguments: list[str]) -> None:
    """Composes the configuration for a stage's arguments."""
    overrides = [item for item in arguments if not item.startswith("--")]
    assert name in STAGES and set(arguments) - set(overrides) <= {"--multirun"}
    # Only the first of a sweep's values.
    config.compose(*(re.sub(r"=([^,\[]+),.*", r"=\1", item) for item in overrides))


def _parse(command: click.Command, arguments: list[str]) -> None:
    """Parses the arguments of a command and its subcommands without running them."""
    if arguments == ["--help"]:
        return
    with command.make_context(command.name, list(arguments)) as context:
        words = [*context._protected_args, *context.args]
        if isinstance(command, click.Group) and (words or not command.invoke_without_command):
            _, inner, rest = command.resolve_command(context, words)
            _parse(inner, rest)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_parses(page, command, project):
    words = shlex.split(command)
    if {"model=tiny", "model=lite1"} & set(words):
        pytest.skip("another test adds its model and runs the command")
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # environment variables
        words.pop(0)
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (project / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif program == "dvc":
        from dvc.cli import parse_args

        parse_args(words[1:])
    elif program == "python3":
        assert words[1:3] == ["-m", "venv"]
    elif program.startswith(".venv-tflite/bin/"):
        file = words[3 if program.endswith("pip") else 1]
        assert file.startswith("tools/") and (project / file).is_file()
    elif program == "python" and words[2].startswith("benchmarks."):
        assert (project / f"{words[2].replace('.', '/')}.py").is_file()
    elif program == "python":
        assert words[1] == "-m" and words[2].startswith("pipeline")
        if words[3:]:
            _stage(words[2].removeprefix("pipeline."), words[3:])
    elif program == "petfaces":
        _parse(petfaces, words[1:])
    else:
        assert program in SHELL


def test_every_linked_file_exists():
    links = [
        (CHECKOUT / ("docs" if (CHECKOUT / "docs" / page).is_file() else "") / link.split("#")[0], link)
        for page, text in PAGES.items()
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if not link.startswith(("http", "#"))
    ]
    assert links
    assert [link for file, link in links if not file.exists()] == []


def test_every_linked_section_exists():
    headings = {
        name: {
            re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-"))
            for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        for name, text in PAGES.items()
    }
    links = [
        (target.rpartition("/")[2] or page, section)
        for page, text in PAGES.items()
        for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text)
    ]
    links = [(page, section) for page, section in links if page in headings]
    assert links
    assert [link for link in links if link[1] not in headings[link[0]]] == []


def _shell(run, commands: str, cwd) -> str:
    done = run("bash", "-euo", "pipefail", "-c", commands, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _block(page: str, kind: str, number: int) -> str:
    return [block for name, block in _blocks(kind) if name == page][number]


@pytest.fixture
def added(project):
    """The files that docs/models.md adds, in the copy."""
    page = PAGES["models.md"]
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    before = [page[: page.index(block)] for block in blocks]
    files = {
        re.findall(r"`(models/\w+\.py)`", text)[-1]: block for text, block in zip(before, blocks, strict=True)
    }
    files["conf/model/tiny.yaml"] = _block("models.md", "yaml", 0)
    for name, text in files.items():
        assert not (project / name).exists()
        (project / name).write_text(text)
    yield files
    for name in files:
        (project / name).unlink()


def test_a_model_a_metric_a_callback_and_a_loss_take_at_most_12_lines_each(added):
    assert set(added) > {"models/tiny.py", "models/certainty.py", "models/gradients.py", "models/poly.py"}
    for name, code in added.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 12, name


def test_adding_a_model_works_as_documented(repro, run, project, added):
    output = _shell(run, _block("models.md", "sh", 0).replace("tiny", "tiny data.epochs=1"), project)
    assert len(re.findall(r"^train(?: job \d)?: tiny on sample, val top-1", output, re.MULTILINE)) == 3


def test_adding_a_backbone_works_as_documented(project):
    file = project / "conf/model/lite1.yaml"
    file.write_text(_block("CONTRIBUTING.md", "yaml", 0))
    try:
        cfg = config.compose("model=lite1")
        assert cfg.model.net.backbone == "tf_efficientnet_lite1" and cfg.model.epochs > 0
        net = build({**cfg.model.net, "weights": None}, num_classes=3)
        assert net.num_classes == 3
    finally:
        file.unlink()


def test_adding_metrics_callbacks_and_a_loss_works_as_documented(repro, run, project, added, tmp_path):
    words = [word for _, command in COMMANDS for word in shlex.split(command) if word.startswith("+")]
    assert len(words) == 6
    _shell(
        run,
        shlex.join(
            [
                "python",
                "-m",
                "pipeline.train",
                "model=tiny",
                "data.epochs=2",
                *words,
                f"out={tmp_path / 'out'}",
            ]
        ),
        project,
    )
    rows = curves.read(tmp_path / "out")
    kept = max(rows, key=lambda row: row["val/top1"])
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    for name in ("val/f1", "val/certainty"):
        assert len({row[name] for row in rows}) == 2
        assert metrics[name] == pytest.approx(kept[name], abs=0.02)  # calibrated afterwards
    assert all(row["train/gradient_norm"] > 0 and row["lr-AdamW/pg1"] > 0 for row in rows)
    plain = tmp_path / "plain"
    _shell(run, f"python -m pipeline.train model=tiny data.epochs=2 out={plain}", project)
    assert curves.read(plain)[0]["train/loss"] != rows[0]["train/loss"]


def test_a_colleague_can_pull_without_training_and_clean_up(repro, run, project, tmp_path):
    setup, push, pull = (_block("housekeeping.md", "sh", number) for number in (1, 2, 3))
    assert "dvc push" in push and "dvc pull" in pull
    clone, kept = tmp_path / "theirs", (project / ".dvc/config").read_bytes()
    try:
        share = re.search(r"dvc remote add .*", setup)[0].replace(
            "/mnt/share/petfaces", str(tmp_path / "share")
        )
        _shell(run, f"{share}\ndvc push -q", project)
        run("git", "clone", "-q", str(project), str(clone))
        for file in ("dvc.lock", ".dvc/config"):  # which would be committed
            shutil.copyfile(project / file, clone / file)
        shutil.copytree(project / "reports/sample", clone / "reports/sample")
        shutil.copytree(project / "champions", clone / "champions", dirs_exist_ok=True)
    finally:
        (project / ".dvc/config").write_bytes(kept)
    export = f"export PYTHONPATH={clone}\n"
    _shell(run, export + pull.replace("git pull", "true"), clone)
    output = _shell(run, export + "dvc repro", clone)
    assert "Running stage" not in output, output
    champion = "runs/sample/register/champion/portable/model.onnx"
    assert (clone / champion).read_bytes() == (project / champion).read_bytes()
    clean = _block("housekeeping.md", "sh", 0)
    assert "rm -rf mlflow.db mlartifacts" in clean
    assert "MLflow at sqlite" in _shell(run, export + clean, clone)
    assert "up to date" in _shell(run, export + "dvc status", clone)


def test_bare_make_lists_the_targets(run):
    output = run("make").stdout
    assert "make demo" in output
    assert "make petfaces" in output
