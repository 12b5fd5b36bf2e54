"""What README.md and docs/ tell can be done: every command parses, those for the sample run."""

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
# Whose words are not ours.
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


def test_the_pages_show_commands():
    assert len(COMMANDS) > 25
    assert {page for page, _ in COMMANDS} == set(PAGES)


def _stage(name: str, arguments: list[str]) -> None:
    """Composes what a stage's arguments ask for."""
    overrides = [item for item in arguments if not item.startswith("--")]
    assert name in STAGES and set(arguments) - set(overrides) <= {"--multirun"}
    # Of a sweep's values the first; +experiment names a file that a sweep leaves.
    config.compose(*(re.sub(r"=([^,\[]+),.*", r"=\1", item) for item in overrides))


def _parse(command: click.Command, words: list[str]) -> None:
    """Parses the words of a command, and of the command within it, without running any."""
    if words == ["--help"]:
        return
    with command.make_context(command.name, list(words)) as context:
        if isinstance(command, click.Group):
            _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            _parse(inner, rest)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_parses(page, command, house):
    words = shlex.split(command)
    if {"model=tiny", "model=lite1"} & set(words):
        pytest.skip("its model is added, and the command run, in a test of its own")
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
        words.pop(0)
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (house / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif program == "dvc":
        from dvc.cli import parse_args

        parse_args(words[1:])
    elif program == "python" and words[2].startswith("benchmarks."):
        assert (house / f"{words[2].replace('.', '/')}.py").is_file()
    elif program == "python":
        assert words[1] == "-m" and words[2].startswith("pipeline")
        if words[3:]:
            _stage(words[2].removeprefix("pipeline."), words[3:])
    elif program == "petfaces":
        _parse(petfaces, words[1:])
    else:
        assert program in SHELL


def test_every_file_the_pages_link_to_exists():
    links = [
        (CHECKOUT / ("docs" if (CHECKOUT / "docs" / page).is_file() else "") / link.split("#")[0], link)
        for page, text in PAGES.items()
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if not link.startswith(("http", "#"))
    ]
    assert links
    assert [link for file, link in links if not file.exists()] == []


def test_every_section_that_a_page_links_to_exists():
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
def added(house):
    """The files that docs/models.md adds, in the copy."""
    page = PAGES["models.md"]
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    before = [page[: page.index(block)] for block in blocks]
    files = {
        re.findall(r"`(models/\w+\.py)`", text)[-1]: block for text, block in zip(before, blocks, strict=True)
    }
    files["conf/model/tiny.yaml"] = _block("models.md", "yaml", 0)
    for name, text in files.items():
        assert not (house / name).exists()
        (house / name).write_text(text)
    yield files
    for name in files:
        (house / name).unlink()


def test_a_model_a_metric_a_callback_and_a_loss_take_ten_lines_each(added):
    assert set(added) > {"models/tiny.py", "models/certainty.py", "models/gradients.py", "models/poly.py"}
    for name, code in added.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 12, name


def test_a_model_is_added_as_docs_models_says(repro, run, house, added):
    told = _shell(run, _block("models.md", "sh", 0).replace("tiny", "tiny data.epochs=1"), house)
    assert len(re.findall(r"^train(?: job \d)?: tiny on sample, val top-1", told, re.MULTILINE)) == 3


def test_a_backbone_is_added_as_contributing_says(house):
    file = house / "conf/model/lite1.yaml"
    file.write_text(_block("CONTRIBUTING.md", "yaml", 0))
    try:
        cfg = config.compose("model=lite1")
        assert cfg.model.net.backbone == "tf_efficientnet_lite1" and cfg.model.epochs > 0
        net = build({**cfg.model.net, "weights": None}, num_classes=3)
        assert net.num_classes == 3
    finally:
        file.unlink()


def test_metrics_callbacks_and_a_loss_are_added_as_docs_models_says(repro, run, house, added, tmp_path):
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
        house,
    )
    rows = curves.read(tmp_path / "out")
    kept = max(rows, key=lambda row: row["val/top1"])
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    for name in ("val/f1", "val/certainty"):
        assert len({row[name] for row in rows}) == 2
        assert metrics[name] == pytest.approx(kept[name], abs=0.02)  # calibrated since
    assert all(row["train/gradient_norm"] > 0 and row["lr-AdamW/pg1"] > 0 for row in rows)
    plain = tmp_path / "plain"
    _shell(run, f"python -m pipeline.train model=tiny data.epochs=2 out={plain}", house)
    assert curves.read(plain)[0]["train/loss"] != rows[0]["train/loss"]


def test_a_colleague_pulls_what_was_pushed_trains_nothing_and_may_clean_up(repro, run, house, tmp_path):
    once, train, want = (_block("housekeeping.md", "sh", number) for number in (1, 2, 3))
    assert "dvc push" in train and "dvc pull" in want
    theirs, kept = tmp_path / "theirs", (house / ".dvc/config").read_bytes()
    try:
        share = re.search(r"dvc remote add .*", once)[0].replace(
            "/mnt/share/petfaces", str(tmp_path / "share")
        )
        _shell(run, f"{share}\ndvc push -q", house)
        run("git", "clone", "-q", str(house), str(theirs))
        for file in ("dvc.lock", ".dvc/config"):  # as their commits would bring them
            shutil.copyfile(house / file, theirs / file)
        shutil.copytree(house / "reports/sample", theirs / "reports/sample")
        shutil.copytree(house / "champions", theirs / "champions", dirs_exist_ok=True)
    finally:
        (house / ".dvc/config").write_bytes(kept)
    here = f"export PYTHONPATH={theirs}\n"
    _shell(run, here + want.replace("git pull", "true"), theirs)
    told = _shell(run, here + "dvc repro", theirs)
    assert "Running stage" not in told, told
    champion = "runs/sample/register/champion/portable/model.onnx"
    assert (theirs / champion).read_bytes() == (house / champion).read_bytes()
    cleaned = _block("housekeeping.md", "sh", 0)
    assert "rm -rf mlflow.db mlartifacts" in cleaned
    assert "MLflow at sqlite" in _shell(run, here + cleaned, theirs)
    assert "up to date" in _shell(run, here + "dvc status", theirs)


def test_bare_make_lists_the_targets(run):
    listed = run("make").stdout
    assert "make demo" in listed
    assert "make petfaces" in listed
