"""Names from outside, of files, classes and runs, on a terminal: whatever is in them, none steers it or fails.

What is stored keeps names as they are: JSON is ASCII with escapes, in which a byte that is not UTF-8 is a lone
surrogate, as Python's file functions give and take it.
"""

import sys
import unicodedata

# Control and format characters (some turn the direction of writing), lone surrogates, separators of lines.
ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
LONGEST = 200  # letters of what is shown whole
KEPT = "\u200c\u200d"  # joiners, which some scripts need


def printable(text: str) -> str:
    r"""The text on one line, with escapes such as ``\n`` and ``\x1b`` for what would steer a terminal.

    A byte that is not UTF-8, in a name from the file system, becomes ``\xff``.
    """
    if text.isprintable():
        return text
    return "".join(
        _escape(letter) if unicodedata.category(letter) in ESCAPED and letter not in KEPT else letter for letter in text
    )


def printable_lines(text: str) -> str:
    """The same for each line of a text of several."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(text: str) -> str:
    """The beginning and the end of a text that is too long to be read, such as a path of thousands of letters."""
    return text if len(text) <= LONGEST else f"{text[:80]}...{text[-80:]}"


def never_fail_to_print() -> None:
    """From here on, standard output and errors show escapes for letters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
