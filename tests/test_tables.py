"""CSV tables hold no formulas for a spreadsheet to run, and read back unchanged."""

import csv
import io
import re

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.results import add_row
from pipeline.artifacts import curves
from pipeline.common import tables
from pipeline.data import pack_index

FORMULAS = ("=1+1.png", "+x", "-x", "@SUM(A1)", "\tx", "\rx", "＝1", "'=x", "''@x", "-5")
CELLS = st.text(st.one_of(st.sampled_from("='+-@\t\r\n,\";＝a"), st.characters(exclude_categories=["Cs"])))


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_is_written_as_text_and_reads_back(tmp_path, cell):
    tables.write(tmp_path / "t.csv", [{"path": cell, "n": -0.5}])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["path"] == f"'{cell}"
    assert row["n"] == "-0.5"  # numbers are not escaped
    assert tables.read(tmp_path / "t.csv") == [{"path": cell, "n": "-0.5"}]


@settings(max_examples=1000, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3), names=st.tuples(CELLS, CELLS))
def test_any_text_reads_back_and_no_cell_is_a_formula(tmp_path_factory, rows, names):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    columns = [f"a{names[0]}", f"={names[1]}"]
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    tables.write(file, table)
    assert tables.read(file) == table
    with open(file, newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not any(
        cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")) for cell in cells
    )


def test_tables_from_older_versions_and_spreadsheets_are_read(tmp_path):
    (tmp_path / "old.csv").write_bytes(b"path,label\n=1+1.png,'quoted'\n-x,b\n")
    assert [list(row.values()) for row in tables.read(tmp_path / "old.csv")] == [
        ["=1+1.png", "'quoted'"],
        ["-x", "b"],
    ]
    (tmp_path / "excel.csv").write_bytes("\ufeffpath,label\r\na,b\r\n\r\nc\r\n".encode())
    assert tables.read(tmp_path / "excel.csv") == [{"path": "a", "label": "b"}, {"path": "c", "label": ""}]
    (tmp_path / "empty.csv").touch()
    assert tables.read(tmp_path / "empty.csv") == []


def test_an_index_with_any_names_reads_back(tmp_path):
    rows = [
        dict.fromkeys(pack_index.TEXT_COLUMNS, cell) | dict.fromkeys(pack_index.NUMBER_COLUMNS, 1)
        for cell in ("=1", "001", "NA")
    ]
    tables.write(tmp_path / "index.csv", rows)
    assert pack_index.read_index(tmp_path).to_dict("records") == rows


def test_curves_keep_their_numbers(tmp_path):
    rows = [{"epoch": 1, "val/loss": -0.25}, {"epoch": 2, "val/loss": 1e-7, "train/loss": 3.5}]
    curves.write(rows, tmp_path / "curves.csv")
    assert pandas.read_csv(tmp_path / "curves.csv")["val/loss"].tolist() == [-0.25, 1e-7]
    assert curves.read(tmp_path)[0] == {"epoch": 1, "val/loss": -0.25, "train/loss": None}


def test_formulas_are_escaped_in_a_stream_too():
    stream = io.StringIO()
    tables.writer(stream)(["=a", 0.5, "b\rc", None])
    assert stream.getvalue() == '"\'=a","0.5","b\rc",""\n'


def test_rows_are_added_under_one_header(tmp_path):
    for name in ("=a", "b"):
        add_row(tmp_path / "new/t.csv", {"name": name, "n": 1})
    assert (tmp_path / "new/t.csv").read_text() == "name,n\n'=a,1\nb,1\n"


def test_only_one_module_uses_csv(project):
    files = [*(project / "pipeline").rglob("*.py"), *(project / "benchmarks").rglob("*.py")]
    assert [file.name for file in files if re.search(r"(?m)^ *import csv\b", file.read_text())] == [
        "tables.py"
    ]
