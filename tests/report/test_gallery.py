import base64
import itertools
import struct
import zlib

import pytest

from cnnjax import claims
from cnnjax.report import gallery
from cnnjax.report.figures import Curves, Finals
from cnnjax.typing import UsageError
from tests.fixtures.html import Page

HOSTILE = "<script>alert('x')</script>\"'&amp;"
DOCSTRING = """Deep nets.

He et al., in two
lines.

    python -m experiments.deep

After the command.
"""


def png(shade):
    """A picture of one grey pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, shade]))) + chunk(
        b"IEND", b""
    )  # fmt: skip


def judged(text="The claim holds."):
    asserted = [claims.Claim(name, text, "S2:205", "greater", unit="error") for name in ("up", "down", "open")]
    asserted.append(claims.Claim("identity", text, "S1:1", "exact", margin=1e-6))
    samples = {
        "up": [0.1, 0.11, 0.12],
        "down": [-0.1, -0.11, -0.12],
        "open": [0.1, -0.05, 0.04],
        "identity": [0.0, 1e-7],
    }
    found = claims.to_json("deep", "quick", claims.judge(asserted, samples))["claims"]
    blank = {
        "verdict": "not run",
        "effect": None,
        "interval": [None, None],
        "n": 0,
        "note": "",
        "seeds_to_decide": None,
    }
    return [{**claim, "current": True} for claim in [*found, {**found[0], **blank, "id": "later"}]]


@pytest.fixture
def exhibit(tmp_path):
    """``exhibit(name, **changes of the evidence)``: with three figures, of which the last has no spec."""

    def make(name="deep", text="The claim holds.", title="Deep nets", **changes):
        directory = tmp_path / name
        (directory / "figures").mkdir(parents=True)
        for number, stem in enumerate(("1_curves", "2_finals", "10_by_hand")):
            (directory / "figures" / f"{stem}.png").write_bytes(png(number))
        evidence = {
            "experiment": "deep", "preset": "quick", "claims": judged(text), "name": name,
            "created": "2026-01-10T12:00:00+00:00", "signatures": ["a" * 16], "data": ["digits"],
            "from": str(directory / "verdict.json"), **changes,
        }  # fmt: skip
        manifest = {"command": f"python -m experiments.deep {text}", "versions": {"jax": "0.10"}, "runs": {"1": "a"}}
        figures = (Curves("train_error"), Finals(("test_error",), title=title))
        return gallery.Exhibit(evidence, title, DOCSTRING, figures, manifest, directory)

    return make


@pytest.fixture
def page(tmp_path):
    """``page(*exhibits)``: the parsed page."""
    return lambda *exhibits: Page(gallery.write(tmp_path / "out" / "index.html", exhibits).read_text())


def test_every_verdict_is_shown_with_rule_source_and_numbers(exhibit, page):
    found = page(exhibit())
    text = found.text
    assert len(found.all("article")) == 5
    for part in ("✓ reproduced", "✗ refuted", "– not run", "+0.110 [+0.085, +0.135] error", "S2:205", "Repetitions 3"):
        assert part in text
    assert "? inconclusive, " in text
    assert "seeds would decide it" in text
    assert "Largest deviation +1.00e-07 Cases 2" in text
    assert text.count("Rule, fixed before the runs: reproduced if") == 4
    assert text.count("Rule, fixed before the runs: exact: reproduced if") == 1
    assert "The rule in the code has changed" not in text


def test_a_changed_rule_is_said(exhibit, page):
    changed = [{**claim, "current": False} for claim in judged()]
    assert "The rule in the code has changed since; run this again." in page(exhibit(claims=changed)).text


def test_words_that_the_page_uses_are_explained(exhibit, page):
    text = page(exhibit()).text
    for word in ("✓ Reproduced", "✗ Refuted", "? Inconclusive", "– Not run", "Interval", "Difference", "seed"):
        assert word in text
    assert f"{100 * claims.ALPHA:g} times in 100 (p < {claims.ALPHA:g})" in " ".join(text.split())
    assert "JAX" not in text


def test_navigation_leads_to_every_evidence(exhibit, page):
    found = page(exhibit(), exhibit("deep-cifar10"))
    targets = [attributes["href"] for attributes in found.all("a")]
    assert targets == ["#deep", "#deep-cifar10"]
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets} <= set(ids)
    assert "1 experiment, 10 results" in found.text
    assert "Deep nets (cifar10)" in found.text
    counts = ["✓ 4 reproduced", "✗ 2 refuted", "? 2 inconclusive", "– 2 not run"]
    assert " ".join(counts) in found.text


def test_figures_are_inlined_in_order_with_a_text_for_those_who_do_not_see_them(exhibit, page):
    images = page(exhibit()).all("img")
    assert [image["src"] for image in images] == [
        f"data:image/png;base64,{base64.b64encode(png(number)).decode()}" for number in range(3)
    ]
    assert images[0]["alt"].startswith("Train error during training. Each line is the train error")
    assert images[1]["alt"].startswith("Deep nets. Large dots are means")
    assert images[2]["alt"] == "By hand."


def test_the_opening_of_a_docstring_ends_at_its_commands():
    assert gallery.opening(DOCSTRING) == ["Deep nets.", "He et al., in two lines."]
    assert gallery.opening("One.\n\nTwo.\n\nThree.") == ["One.", "Two."]
    assert gallery.opening("") == []


def test_the_page_stands_alone_and_has_headings_in_order(exhibit, page):
    found = page(exhibit())
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in found.tags)
    assert all(
        value.startswith(("#", "data:")) for _, a in found.tags for k, value in a.items() if k in ("href", "src")
    )
    levels = [int(tag[1]) for tag, _ in found.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in found.tags


def test_the_same_evidence_gives_the_same_bytes_and_dates(exhibit, tmp_path):
    shown = [exhibit()]
    first, second = (gallery.write(tmp_path / name, shown).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert b"<dt>Date</dt><dd>2026-01-10</dd>" in first


def test_emphasis_and_code_of_a_docstring_are_kept(exhibit, page):
    whole = exhibit()
    words = "Its *training* error, ``a * b`` and 2 * 3 * 4."
    found = page(gallery.Exhibit(whole.evidence, "Deep", words, (), {}, whole.directory))
    assert "Its training error, a * b and 2 * 3 * 4." in " ".join(found.text.split())
    assert ("em", {}) in found.tags
    assert len(found.all("code")) == 2  # and the signature


def test_an_experiment_that_was_not_run_says_how_to_run_it(exhibit, page):
    whole = exhibit()
    bare = gallery.Exhibit({**whole.evidence, "from": None}, whole.title, whole.introduction, whole.figures, {}, None)
    found = page(bare)
    assert "Not run yet. python -m experiments.deep does it." in found.text
    assert found.all("img") == []


def test_whatever_an_experiment_says_is_text(exhibit, page):
    found = page(exhibit(text=HOSTILE, title=HOSTILE, data=[HOSTILE], signatures=[HOSTILE]))
    assert "script" not in [tag for tag, _ in found.tags]
    assert found.text.count("<script>alert('x')</script>") >= 8
    assert found.all("img")[1]["alt"].startswith(HOSTILE)


def test_no_part_of_a_verdict_becomes_an_element(exhibit, page):
    """Also one that was a number, where a file was changed by hand after it was checked."""
    shown = exhibit()
    for claim in shown.evidence["claims"]:
        claim.update(
            dict.fromkeys(("id", "statement", "source", "rule", "unit", "note", "n", "seeds_to_decide"), HOSTILE)
        )
    assert "script" not in [tag for tag, _ in page(shown).tags]


def test_a_page_that_cannot_be_written_is_refused(exhibit, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        gallery.write(tmp_path / "file" / "index.html", [exhibit()])
    with pytest.raises(UsageError, match="no experiment"):
        gallery.write(tmp_path / "index.html", [])
