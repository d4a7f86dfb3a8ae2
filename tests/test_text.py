import io
import os
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.console import Console
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


@pytest.mark.parametrize("hostile", ["\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\r\x1b[K", "\u202e"])
def test_nothing_that_a_console_prints_steers_the_terminal(hostile):
    """Only what rich itself writes: colours, which are the same for another text."""
    from rich.table import Table

    def printed(text):
        out = io.StringIO()
        table = Table("what happened", title=text, caption=text)
        table.add_row(text, style="red")
        console = Console(file=out, force_terminal=True, width=200)
        console.print(f"failed: {text}", table, highlight=False, markup=False)
        console.print(f"failed: {text}", style="bold", soft_wrap=True, markup=False)
        with console.status(text):
            pass
        return out.getvalue()

    # Control characters and escape sequences, but for colours, which rich also gives to numbers
    steers = re.compile(r"\x1b(?!\[[0-9;]*m)[^a-zA-Z]*.|[\x00-\x1a\x7f-\x9f\u202e]")
    steering = [set(steers.findall(printed(text))) for text in (hostile, "plain")]
    assert hostile not in printed(hostile)
    assert steering[0] == steering[1]


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    never_fail_to_print()
    print("é", os.fsdecode(b"\xe9"), flush=True)
    assert raw.getvalue() == b"\\xe9 \\udce9\n"
