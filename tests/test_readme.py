"""What the README tells can be done."""

import re
from pathlib import Path

import pytest

from pipeline import config

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
TRAIN = re.findall(r"^python -m pipeline\.train (.*?)(?:  +#.*)?$", README, re.MULTILINE)


def test_every_make_target_it_names_exists(house):
    targets = set(re.findall(r"^([a-z-]+):", (house / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\s)make ([a-z-]+)", README))
    assert {"demo", "test", "petfaces", "ui"} <= named <= targets


def test_every_module_it_names_exists(house):
    modules = set(re.findall(r"python -m pipeline\.([a-z]+)", README))
    assert modules
    assert all(
        (house / f"pipeline/{module}.py").is_file() or (house / f"pipeline/{module}/__main__.py").is_file()
        for module in modules
    )


@pytest.mark.parametrize("command", TRAIN)
def test_every_training_it_shows_composes(command):
    overrides = [item for item in command.split() if not item.startswith("--")]
    assert overrides
    config.compose(*[re.sub(r"=([^,]+),.*", r"=\1", item) for item in overrides])


def test_every_file_it_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith(("http", "#"))]
    assert links
    assert all((Path(__file__).resolve().parents[1] / link).exists() for link in links)


def test_bare_make_lists_the_targets(run):
    listed = run("make").stdout
    assert "make demo" in listed
    assert "make petfaces" in listed


def test_every_section_it_links_to_exists():
    headings = {
        re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-"))
        for heading in re.findall(r"^## (.+)$", README, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert links
    assert links <= headings
