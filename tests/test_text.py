"""Untrusted text is escaped for terminals, rich, Markdown and paths."""

import ast
import io
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pipeline.common import text

HOSTILE = "\x1b[31mred\x1b[0m\nnext [/notes] <b>|`x`\u202eevil\udcff"


def test_control_characters_are_escaped():
    assert text.printable(HOSTILE) == r"\x1b[31mred\x1b[0m\nnext [/notes] <b>|`x`\u202eevil\udcff"
    assert text.printable("Kätzchen 고양이 🐈") == "Kätzchen 고양이 🐈"


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_shown_as_one_printable_line(value):
    shown = text.printable(value)
    assert len(shown.splitlines()) <= 1
    assert not any(map(text.unsafe, shown))
    shown.encode()  # raises on a lone surrogate


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="[]/\\abc=#@ "))
def test_rich_markup_is_escaped(value):
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_row(text.rich(value))
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert console.file.getvalue().strip() == value.strip()


def test_markdown_is_escaped_in_table_cells():
    assert text.markdown("a|b <i>*x*</i>\n _c_ dog_american") == (
        r"a\|b &lt;i&gt;\*x\*&lt;/i&gt;\\n \_c\_ dog_american"
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://ann:secret@host:5000/x", "http://ann:***@host:5000/x"),
        ("at postgresql+psycopg2://u:p%40w@db/m; again", "at postgresql+psycopg2://u:***@db/m; again"),
        ("https://token@host", "https://***@host"),
        ("https://ann@corp.org:pw@host/x", "https://ann@corp.org:***@host/x"),
        ("http://ann:p@ss@host", "http://ann:***@host"),
        ("http://ann:p/w@host", "http://ann:***@host"),
        ("postgresql://u:p/w@x@db/m", "postgresql://u:***@db/m"),
        ("http://127.0.0.1:5000/models/a@champion", "http://127.0.0.1:5000/models/a@champion"),
        ("http://u:pw@h/models/a@champion", "http://u:***@h/models/a@champion"),
        ("postgresql://h/db?user=u&password=pw&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_passwords_in_addresses_are_hidden(address, expected):
    assert text.without_password(address) == expected


# ---------------------------------------------------------------- paths and class names


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)),
    st.text("\\xude4n\n"),
)
def test_escaped_paths_are_unique_printable_lines_of_utf8(name, other):
    assert name == other or text.path(name) != text.path(other)
    text.path(name).encode()
    assert not any(map(text.unsafe, text.path(name)))


def test_a_path_is_escaped_as_a_shell_reads_it():
    assert text.path("a/K\udce4tzchen\n\x1b\x85\\.jpg") == r"a/K\xe4tzchen\n\x1b\u0085\\.jpg"
    assert text.path("猫/Kätzchen 🐈 [1].jpg") == "猫/Kätzchen 🐈 [1].jpg"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        ("..", "is empty"),
        ("a\nb", "has control characters"),
        ("a\u2028b", "has control characters"),
        ("a\u202eb", "has control characters"),
        ("\x9b31m", "has control characters"),
        ("K\udce4tz", "is not UTF-8"),
        ("x" * 201, "has more than 200 characters"),
        ("x" * 200, None),
        ("[b] <i> |猫 \u200d=1", None),
    ],
)
def test_invalid_class_names_are_reported_with_the_reason(name, problem):
    assert text.class_name_problem(name) == problem


def test_names_that_look_alike_are_found():
    names = [
        "caf\u00e9",
        "cafe\u0301",
        "Tabby",
        "tabby",
        "ＴＡＢＢＹ",
        "tab by",
        "Straße",
        "STRASSE",
        "dog",
        "dogs",
    ]
    assert text.look_alikes(names) == [names[:2], names[2:6], names[6:8]]


# ---------------------------------------------------------------- terminals


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "shift_jis"])
def test_output_works_in_any_encoding(encoding):
    code = (
        "import sys; import pipeline.common.errors\n"
        "from rich.console import Console; from rich.table import Table\n"
        "print('猫 고양이 é \\udce4 \\ud800 🐈'); print('猫', file=sys.stderr)\n"
        "table = Table(title='猫 – ž'); table.add_column('é'); table.add_row('고'); Console().print(table)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\xe4" in done.stdout  # the raw byte of a file name
    if encoding == "ascii":
        assert rb"\u732b" in done.stdout and rb"\U0001f408" in done.stdout


def _without_encoding(file):
    """Lines of a module that read or write text in the default encoding."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        mode = keywords.get("mode", ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        opens = isinstance(node.func, ast.Name) and name == "open" and "b" not in mode
        encoded = "encoding" in keywords or None in keywords
        if keywords.get("text") == "True" or ((opens or name in ("read_text", "write_text")) and not encoded):
            yield f"{file.name}:{node.lineno}"


def test_no_code_uses_the_default_encoding(project):
    files = [file for name in ("pipeline", "models") for file in (project / name).rglob("*.py")]
    assert [line for file in files for line in _without_encoding(file)] == []


# ---------------------------------------------------------------- Markdown


@pytest.mark.parametrize(
    ("value", "expected"),
    [("# big", r"\# big"), ("- x", r"\- x"), ("12. x", r"12\. x"), ("-0.5", "-0.5"), ("1.5 %", "1.5 %")],
)
def test_markdown_headings_and_lists_are_escaped(value, expected):
    assert text.markdown(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("plain", "`plain`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a|b", r"`a\|b`"), ("a\n<b>", r"`a\n<b>`")],
)
def test_markdown_code_is_literal(value, expected):
    assert text.code(value) == expected
