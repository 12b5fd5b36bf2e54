"""Text of strangers stays text, wherever it is shown."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pipeline import text

HOSTILE = "\x1b[31mred\x1b[0m\nnext [/notes] <b>|`x`\u202eevil\udcff"


def test_no_control_character_is_left():
    assert text.printable(HOSTILE) == r"\x1b[31mred\x1b[0m\nnext [/notes] <b>|`x`\u202eevil\udcff"
    assert text.printable("Kätzchen 고양이 🐈") == "Kätzchen 고양이 🐈"


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_one_line_that_every_terminal_takes(given_text):
    shown = text.printable(given_text)
    assert len(shown.splitlines()) <= 1
    assert not any(map(text.unsafe, shown))
    shown.encode()  # no lone surrogate


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="[]/\\abc=#@ "))
def test_rich_shows_markup_and_obeys_none(given_text):
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_row(text.rich(given_text))
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert console.file.getvalue().strip() == given_text.strip()


def test_markdown_keeps_a_cell_in_its_cell():
    assert text.markdown("a|b <i>*x*</i>\n _c_ dog_american") == (
        r"a\|b &lt;i&gt;\*x\*&lt;/i&gt;\\n \_c\_ dog_american"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
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
def test_no_address_shows_its_password(address, shown):
    assert text.without_password(address) == shown
