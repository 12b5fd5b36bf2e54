"""What README.md and docs/ tell can be done: every command parses, those for the sample run."""

import argparse
import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline import config

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = {page.name: page.read_text() for page in (CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md"))}
STAGES = ("fetch", "pack", "split", "audit", "train", "evaluate", "register", "report")
SHELL = (
    "cd",
    "cp",
    "curl",
    "export",
    "git",
    "mlflow",
    "rm",
    "sed",
    "source",
    "tar",
)  # whose words are not ours


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
        for command in re.findall(r"`((?:make|dvc|python -m) [^`]+)`", text)
        if "…" not in command
    }
)


def test_the_pages_show_commands():
    assert len(COMMANDS) > 25
    assert {page for page, _ in COMMANDS} == set(PAGES)


class _ParsedError(Exception):
    """Arguments were understood."""


def _program(name: str, arguments: list[str], monkeypatch) -> None:
    """Lets a program of this project parse its arguments, and stops it there."""
    if name in STAGES:
        overrides = [item for item in arguments if not item.startswith("--")]
        assert set(arguments) - set(overrides) <= {"--multirun"}
        # Of a sweep's values the first; +experiment names a file that a sweep leaves.
        config.compose(*(re.sub(r"=([^,\[]+),.*", r"=\1", item) for item in overrides))
        return
    if name == "config":
        (choice,) = arguments
        assert re.fullmatch(r"data=\w+", choice)
        return
    module = importlib.import_module(f"pipeline.{name}")
    if name == "leaderboard":
        assert not arguments
        return
    if not hasattr(module, "main"):
        module = importlib.import_module(f"pipeline.{name}.__main__")
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *given, **options):
        parse(self, *given, **options)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(_ParsedError):
        module.main(arguments)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_parses(page, command, monkeypatch, house):
    words = shlex.split(command)
    if "model=tiny" in words:
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
        assert words[1] == "-m" and words[2].startswith("pipeline.")
        _program(words[2].removeprefix("pipeline."), words[3:], monkeypatch)
    else:
        assert program in SHELL


def test_every_file_the_pages_link_to_exists():
    links = [
        (CHECKOUT / ("docs" if page != "README.md" else "") / link.split("#")[0], link)
        for page, text in PAGES.items()
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if not link.startswith(("http", "#"))
    ]
    assert links
    assert [link for file, link in links if not file.exists()] == []


def test_every_section_the_readme_links_to_exists():
    headings = {
        re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-"))
        for heading in re.findall(r"^## (.+)$", PAGES["README.md"], re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGES["README.md"]))
    assert links
    assert links <= headings


def _shell(run, commands: str, cwd) -> str:
    done = run("bash", "-euo", "pipefail", "-c", commands, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _block(page: str, kind: str, number: int) -> str:
    return [block for name, block in _blocks(kind) if name == page][number]


def test_a_model_is_added_in_ten_lines_as_docs_models_says(repro, run, house):
    code = _block("models.md", "python", 0)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    added = (house / "models/tiny.py", house / "conf/model/tiny.yaml")
    try:
        added[0].write_text(code)
        added[1].write_text(_block("models.md", "yaml", 0))
        told = _shell(run, _block("models.md", "sh", 0).replace("tiny", "tiny data.epochs=1"), house)
        assert told.count("train: tiny on sample, val top-1") == 3
    finally:
        for file in added:
            file.unlink(missing_ok=True)


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
