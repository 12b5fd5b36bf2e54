"""Untrusted class names, reasons and file names are shown as text in tables, notes, pages and terminals."""

import csv
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from untrusted_models import CARD

from pipeline import report, tasks, tracking
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import Provenance
from pipeline.common import tables, text
from pipeline.common.errors import UserError
from pipeline.inference import export, predict
from pipeline.maintenance import champion
from pipeline.reporting import leaderboard, report_page
from pipeline.sweeps.show import _table
from pipeline.tracking import descriptions

MARKUP = "[b] bracket [/notes] <img src=x>|*x*"
CONTROL = "\x1b[2J\r\nfake: line\u202e"
HOSTILE = MARKUP + CONTROL

SINGLE = tasks.of("single_label")
PREDICT_CARD = SimpleNamespace(several=False, unsure_below=0.5)  # the fields of a card that predict reads


def _assert_safe(printed: str) -> None:
    """No escape sequence and no injected line reaches the terminal."""
    assert "\x1b" not in printed and "\u202e" not in printed
    assert not re.search(r"(?m)^fake: line", printed)


def test_the_list_of_versions_shows_markup_as_text(monkeypatch, capsys):
    row = {"version": "1", "model": HOSTILE, "test": "top-1 50.0%", "champion": False, "commit": "c" * 40}
    monkeypatch.setattr(tracking, "versions", lambda name: [row | {"withdrawn": "see [/notes]"}])
    change = tracking.Change("2026-01-01", "1", None, "see [/notes]" + CONTROL + "x" * 5000)
    monkeypatch.setattr(tracking, "history", lambda name: [change])
    monkeypatch.setattr(tracking, "display_uri", lambda: "http://ann:***@host/[/b]")
    monkeypatch.setenv("COLUMNS", "300")
    champion.show("sample")
    printed = capsys.readouterr().out
    _assert_safe(printed)
    assert "rolled back: see [/notes]" in printed and "[b]" in printed
    assert "host/[/b]" in printed
    assert "became champion: see [/notes]" in printed
    assert max(map(len, printed.splitlines())) < 500


@pytest.mark.parametrize("kind", ["table", "line", "csv", "jsonl"])
def test_predict_shows_any_label_and_file_name_as_text(kind, capsys, monkeypatch):
    answer = {"labels": [HOSTILE, "=1+1"], "probabilities": [0.9, 0.1], "unsure": False}
    write, _ = predict._writer("table" if kind == "line" else kind, 2, kind == "line", PREDICT_CARD)
    if kind == "csv":  # only a terminal gets escaped text
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    write(HOSTILE, answer)
    printed = capsys.readouterr().out
    _assert_safe(printed)
    if kind == "jsonl":
        assert json.loads(printed)["labels"][0] == HOSTILE
    elif kind == "csv":
        assert "'=1+1" in printed and "[b] bracket" in printed
    else:
        assert "[b] bracket [/notes]" in printed


def test_csv_output_reads_back_exactly(capsys):
    write, _ = predict._writer("csv", 1, True, PREDICT_CARD)
    write("=1+1.png", {"labels": [HOSTILE], "probabilities": [0.5], "unsure": True})
    header, row = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert dict(zip(header, map(tables.unprotect, row), strict=True)) == {
        "photo": "=1+1.png",
        "unsure": "True",
        "label_1": HOSTILE,
        "probability_1": "0.500000",
        "error": "",
    }
    assert row[0] == "'=1+1.png"


def test_the_leaderboard_escapes_markdown():
    row = {"model": HOSTILE, "test/top1": 0.5, "test/top1/low": 0.4, "test/top1/high": 0.6}
    shown = leaderboard.markdown(SINGLE, [row])
    _assert_safe(shown)
    assert shown.splitlines()[2].startswith(r"| \[b\] bracket \[/notes\] &lt;img src=x&gt;\|\*x\*")


def test_a_sweeps_table_shows_markup_as_text(capsys):
    job = SimpleNamespace(seconds=1.0, name="0[/b]", value=lambda name: HOSTILE)
    candidate = SimpleNamespace(jobs=[job], seeds=[1], mean=0.5, rounded_mean=0.5, show=lambda metric: "50 %")
    sweep = SimpleNamespace(name="[/x]", finished=[job], jobs=[job], parameters=["[red]model.lr"])
    _table(sweep, [candidate], SimpleNamespace(title="top-1"))
    printed = capsys.readouterr().out
    _assert_safe(printed)
    assert "sweep [/x]" in printed and "[red]model.lr" in printed and "[b] bracket" in printed


def test_mlflow_descriptions_escape_markup(monkeypatch):
    monkeypatch.setattr(descriptions, "name_of", lambda model: HOSTILE)
    data = {"name": HOSTILE, "pictures": 3, "classes": 2, "content": "`" * 12, "split": "s"}
    trained = SimpleNamespace(
        train=Path("nowhere"),
        task=SINGLE,
        card=SimpleNamespace(name=HOSTILE, drawings=False),
        lineage={"data": data},
        provenance=Provenance(),
        metrics={"val/top1": 0.5},
        settings={"seed": 1},
    )
    notes = (
        descriptions.experiment(trained),
        descriptions.run(trained, None),
        descriptions.version(trained, {}, "1", "2"),
        descriptions.failed(HOSTILE),
        descriptions.sweep("1", [(HOSTILE, "2", 0.5, "FINISHED")], "top-1")[1],
    )
    for note in notes:
        _assert_safe(note)
        assert "<img" not in note and r"\[/notes\]" in note


def test_errors_escape_control_characters_but_keep_newlines():
    assert str(UserError("a \x1b[31m\nb\r")) == "a \\x1b[31m\nb\\r"


def test_the_report_and_its_readme_show_names_as_text(tmp_path, monkeypatch):
    champion = {"model": "a`b", "reason": HOSTILE}
    decision = {"champion": champion, "promoted": False, "challenger": "x", "reason": HOSTILE, "looks": 0}
    row = {"model": "m (1)", "test/top1": 0.5, "test/top1/low": 0.4, "test/top1/high": 0.6}
    readme = report._readme(Path(HOSTILE.replace("/", "")), SINGLE, [row], [], decision, drawings=False)
    _assert_safe(readme)
    assert "Champion: ``a`b``" in readme and "(confusion-m%20%281%29.png)" in readme
    assert "<img" not in readme
    monkeypatch.setattr(report_page, "TEMPLATE", tmp_path / "page.html")
    (tmp_path / "page.html").write_text("<p>{{ label }}</p>{% macro x() %}<b>\n</b>{% endmacro %}{{ x() }}")
    report_page.write(tmp_path, label=HOSTILE)
    shown = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "\x1b" not in shown and "&lt;img src=x&gt;" in shown and "<b>\n</b>" in shown


def test_an_export_has_a_line_for_each_class_and_an_escaped_readme(tmp_path):
    classes = [HOSTILE, "猫", "\udcff"]
    found = ModelFolder(tmp_path / "train", tmp_path / "evaluation")
    card = SimpleNamespace(  # of an older version, which allowed any name
        classes=classes,
        data=HOSTILE,
        name="a`b",
        drawings=False,
        net={"backbone": MARKUP},
        input=SimpleNamespace(size=64),
        unsure_below=0.5,
        task="single_label",
        several=False,
        thresholds=[],
    )
    lineage = {"data": {"name": "mine", "pictures": 3, "content": "c" * 64, "split": "s" * 64}}
    files = {
        "train/model.json": CARD,
        "train/weights.safetensors": {},
        "train/metrics.json": {"parameters": 12, "val/top1": 0.5},
        "train/lineage.json": lineage | {"commit": None, "dirty": False},
        "train/config.yaml": {
            "seed": 1,
            "data": {"name": "mine", "licence": HOSTILE},
            "model": {"name": "mine"},
        },
        "evaluation/metrics.json": {
            f"test/{key}": 0.5
            for key in ("pictures", "top1", "top1/low", "top1/high", "top3", "calibration_error", "answered")
        }
        | {"others/named": 0.5},
    }
    for name, tree in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(tree))
    rows = [{"label": name, "pictures": 1, "recall": 0.5, "precision": 0.5} for name in classes[:2]]
    tables.write(tmp_path / "evaluation/classes.csv", rows)
    readme = export._readme(found, card, None, page=False)
    _assert_safe(readme)
    assert "<img" not in readme and "猫 50% of 1" in readme and "``a`b``" in readme
    export._write_labels(card, tmp_path / "labels.txt")
    labels = (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(labels) == 3 and labels[1] == "猫"
    _assert_safe("\n".join(labels))


def test_the_browser_demo_inserts_names_as_text(project):
    for file in (project / "pipeline/inference/try_page").iterdir():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", file.read_text(encoding="utf-8")
        )
    for file in (project / "pipeline").rglob("*.html"):
        unescaped = re.findall(r"\|\s*safe", file.read_text(encoding="utf-8"))
        assert len(unescaped) == ('"_<wbr>"|safe' in file.read_text(encoding="utf-8")), file


def test_rich_draws_ascii_boxes_on_an_ascii_terminal():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="petfaces.tolerant")
    from rich.table import Table

    table = Table(title=text.rich("猫"))
    table.add_column("a")
    Console(file=stream).print(table)
    stream.flush()
    assert b"+---" in stream.buffer.getvalue()
