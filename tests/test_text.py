import io
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cnnjax.tables import cell, show
from cnnjax.text import never_fail_to_print, printable, printable_lines


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b é 漢字 \\ [/b]", "a b é 漢字 \\ [/b]"),
        ("two\nlines\r\tand\x00", r"two\nlines\r\tand\x00"),
        ("\x1b[31mred\x9b", r"\x1b[31mred\x9b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("line\u2028end", r"line\u2028end"),
        ("\ud800", r"\ud800"),
    ],
)
def test_names_show_what_would_steer_the_terminal(name, shown):
    assert printable(name) == shown
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_is_shown_steers(name):
    shown = printable(name)
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 or "\ud800" <= letter <= "\udfff" for letter in shown)
    shown.encode()
    assert printable_lines(f"{name}\n{name}".replace("\r", "")).count("\n") == 2 * name.count("\n") + 1


def test_texts_and_cells_have_no_markup():
    from rich.table import Table

    out = io.StringIO()
    table = Table(title=cell("on [/b]/data"))
    table.add_column("image")
    table.add_row(cell("[red]a\n[/b]"))
    show("in [/b]/data", table, console=Console(file=out))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines == ["in [/b]/data", "on [/b]/data", "image", r"[red]a\n[/b]"]


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    never_fail_to_print()
    print("é", os.fsdecode(b"\xe9"), flush=True)
    assert raw.getvalue() == b"\\xe9 \\udce9\n"
