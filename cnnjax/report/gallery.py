"""One HTML page of all experiments: what each claims, what its runs said, and its figures.

It is written for readers who know neither JAX nor statistics. Like an experiment's own page it stands
alone (no script, no link to another file, no font; figures are inlined) and says dates instead of
ages, so the same evidence gives the same bytes. HTML is ``Markup``; see ``page``.
"""

import base64
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from markupsafe import Markup

from cnnjax.process import write_atomically
from cnnjax.report import figures as drawing
from cnnjax.report.page import NOTHING, definitions, document
from cnnjax.report.table import VERDICT_STYLES, effect_text
from cnnjax.typing import UsageError

NOT_RUN = "not run"
SIGNS = {**{verdict: sign for verdict, (sign, _) in VERDICT_STYLES.items()}, NOT_RUN: "–"}
RULE_CHANGED = "rule changed since: rerun"

EMPHASIS = re.compile(r"(``[^`]+``|(?<!\w)\*\w[^*]*\*(?!\w))")
CSS = Markup("""
.not { --verdict: var(--soft); }
.lead { font-size: 1.12rem; } .experiment { margin-top: 3.5rem; }
.counts { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; list-style: none; padding: 0; margin: 0 0 .75rem; }
.counts li { color: var(--verdict); font-weight: 700; }
nav ol { padding-left: 1.4rem; } nav li { margin: 0 0 .5rem; }
nav .counts { display: inline-flex; margin: 0 0 0 .6rem; } nav .counts li { margin: 0; font-size: .9rem; }
a { color: inherit; text-underline-offset: .15em; } a:focus-visible { outline: 3px solid; outline-offset: 2px; }
h2 small { font-weight: 400; color: var(--soft); } h4 { font-size: 1rem; margin: 0 0 .5rem; }
.card .rule { font-size: .92rem; color: var(--soft); }
""")

LEGEND = Markup("""<p>Each claim is one sentence taken from a lecture on convolutional networks (programs that learn to
recognise pictures from examples). To check it, such networks are trained from scratch on a computer, several
times over. The repetitions differ only in the <em>seed</em>: the number that decides all chance in a run, such as
the random start of the network and the order of the pictures. The rule that judges a claim is fixed in the code
before the runs and is printed with each result.</p>
<dl>
<dt class='reproduced badge'>✓ Reproduced</dt><dd>The runs support the claim, and more clearly than chance would
explain.</dd>
<dt class='refuted badge'>✗ Refuted</dt><dd>The runs speak against the claim, just as clearly. That is a result,
not a failure.</dd>
<dt class='inconclusive badge'>? Inconclusive</dt><dd>The runs decide neither way. This does not mean that there is
no difference: with more repetitions it might show. Where it can be estimated, the card says how many.</dd>
<dt class='not badge'>– Not run</dt><dd>Nothing has been computed for this claim yet.</dd>
<dt>Difference</dt><dd>What was measured, averaged over the repetitions: the first thing compared less the second,
so that below 0 the first is smaller. An error of 0.25 means that one picture in four was misjudged; a loss
measures errors and hesitation together; both are better when smaller.</dd>
<dt>Interval</dt><dd>The two numbers in [brackets]. Repetitions scatter, so their average is uncertain: of intervals
made like this one, 95 in 100 contain the value that endlessly many repetitions would give. A narrow one is a
precise answer; one that contains 0 leaves open in which direction the difference goes.</dd>
<dt>Largest deviation</dt><dd>For claims that are exact identities: how far the worst case was from holding. Such
claims need no training and no repetitions.</dd>
<dt>Rule</dt><dd>Runs that share a seed are compared in pairs, and the differences averaged. The t test asks how often
repetitions that scatter like these would give such an average if the claim were false; below 4.5 times in 100 (p &lt;
0.045) the claim counts as shown. Holm's adjustment makes this stricter where several claims are tested together, and
n is the number of repetitions.</dd>
<dt>Lecture</dt><dd>Where the claim is made: S0 to S4 are the five lectures, the numbers the lines of their text.</dd>
</dl>
""")


@dataclass(frozen=True)
class Exhibit:
    """One experiment's evidence, as the page shows it.

    Attributes:
      evidence: an entry of the ledger: ``verdict.json`` with ``name``, ``created``, ``signatures`` and ``data``.
      title: the experiment's title.
      introduction: its docstring.
      figures: what its figures are of, for their titles and explanations.
      manifest: how the runs were made; empty if there are none.
      directory: where the results lie; its ``figures/*.png`` are shown. None if there are none.
    """

    evidence: Mapping[str, Any]
    title: str
    introduction: str
    figures: Sequence[drawing.FigureSpec]
    manifest: Mapping[str, Any]
    directory: Path | None


def write(path: str | Path, exhibits: Sequence[Exhibit]) -> Path:
    """Writes the page; its size is that of the figures' PNG files and a third more.

    Raises:
      UsageError: there is nothing to show, or the file cannot be written.
    """
    if not exhibits:
        raise UsageError("There is no experiment to report.")
    path = Path(path)
    claims = [claim for exhibit in exhibits for claim in exhibit.evidence["claims"]]
    experiments = len({exhibit.evidence["experiment"] for exhibit in exhibits})
    body = Markup(
        "<header>\n<h1>What the lectures say, and what the runs say</h1>\n"
        "<p class='lead'>{}, {} on what lectures claim about convolutional networks.</p>\n{}</header>\n"
        "<nav aria-label='Experiments'>\n<h2>Experiments</h2>\n<ol>\n{}</ol>\n</nav>\n"
        "<section>\n<h2>How to read the results</h2>\n{}</section>\n{}"
    ).format(
        plural(experiments, "experiment"),
        plural(len(claims), "result"),
        _counts(claims),
        NOTHING.join(map(_entry, exhibits)),
        LEGEND,
        NOTHING.join(map(_exhibit, exhibits)),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, document("What the lectures say, and what the runs say", body, CSS))
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}). Choose another path.") from error
    return path


def attributes(claim: Mapping[str, Any]) -> SimpleNamespace:
    """A claim of ``verdict.json`` in the form of ``claims.Verdict``: null stands for nan."""
    low, high = (math.nan if bound is None else float(bound) for bound in claim["interval"] or (None, None))
    effect = math.nan if claim["effect"] is None else float(claim["effect"])
    return SimpleNamespace(**{**claim, "effect": effect, "interval": (low, high)})


def verdict_text(claim: Mapping[str, Any]) -> str:
    """The verdict with its sign; where it is open, how many seeds would decide it, if that is known."""
    verdict, seeds = str(claim["verdict"]), claim["seeds_to_decide"]
    open_still = f", {seeds} seeds would decide it" if verdict == "inconclusive" and seeds else ""
    return f"{SIGNS[verdict]} {verdict}{open_still}"


def is_exact(claim: Mapping[str, Any]) -> bool:
    """Whether the claim is an identity, judged by its worst case and not by seeds."""
    return str(claim["rule"]).startswith("exact")


def opening(docstring: str) -> list[str]:
    """The paragraphs of an experiment's docstring before its commands, each in one line; at most two."""
    found: list[str] = []
    for block in textwrap.dedent(docstring).split("\n\n"):
        if block.startswith(" ") or len(found) == 2:
            break
        if block.strip():
            found.append(" ".join(block.split()))
    return found


def _entry(exhibit: Exhibit) -> Markup:
    name, claims = exhibit.evidence["name"], exhibit.evidence["claims"]
    item = Markup("<li><a href='#{}'>{}</a>{} {}</li>\n")
    return item.format(name, exhibit.title, _setting(exhibit), _counts(claims))


def _setting(exhibit: Exhibit) -> Markup:
    """On what data the evidence was found, where it is not the experiment's usual one."""
    name, experiment = str(exhibit.evidence["name"]), str(exhibit.evidence["experiment"])
    extra = name.removeprefix(experiment).strip("-_. ")
    return Markup(" <small>({})</small>").format(extra) if extra else NOTHING


def _counts(claims: Sequence[Mapping[str, Any]]) -> Markup:
    """How many claims had each verdict; verdicts that none had are left out."""
    count = Counter(str(claim["verdict"]) for claim in claims)
    item = Markup("<li class='{verdict}'>{sign} {count} {verdict}</li>")
    items = [item.format(verdict=v, sign=sign, count=count[v]) for v, sign in SIGNS.items() if count[v]]
    return Markup("<ul class='counts'>{}</ul>\n").format(NOTHING.join(items))


def _exhibit(exhibit: Exhibit) -> Markup:
    evidence, paragraph = exhibit.evidence, Markup("<p>{}</p>\n")
    return Markup("<section class='experiment' id='{}'>\n<h2>{}{}</h2>\n{}<h3>Results</h3>\n{}{}{}</section>\n").format(
        evidence["name"],
        exhibit.title,
        _setting(exhibit),
        NOTHING.join(paragraph.format(_emphasised(text)) for text in opening(exhibit.introduction)),
        NOTHING.join(_card(claim, f"{evidence['name']}.{claim['id']}") for claim in evidence["claims"]),
        _figures(exhibit),
        _making(exhibit),
    )


def _emphasised(text: str) -> Markup:
    """HTML of a docstring's text, in which *this* is emphasised and ``this`` is code."""
    code, emphasis = Markup("<code>{}</code>"), Markup("<em>{}</em>")
    pieces = EMPHASIS.split(text)
    for place, piece in enumerate(pieces):
        if place % 2:  # what the pattern matched
            pieces[place] = code.format(piece[2:-2]) if piece.startswith("``") else emphasis.format(piece[1:-1])
    return NOTHING.join(pieces)


def _card(claim: Mapping[str, Any], anchor: str) -> Markup:
    verdict = str(claim["verdict"])
    exact, ran = is_exact(claim), verdict != NOT_RUN
    effect = effect_text(attributes(claim)) if ran else ""
    facts = {
        "Largest deviation" if exact else "Difference [interval]": effect,
        "Cases" if exact else "Repetitions": str(claim["n"]) if ran else "",
        "Remark": claim["note"],
        "Caution": "" if claim["current"] else "The rule in the code has changed since; run this again.",
        "Lecture": claim["source"],
    }
    return Markup(
        "<article class='card {}' id='{}'>\n<p class='badge'>{}</p>\n<h4>{}</h4>\n{}"
        "<p class='rule'>Rule, fixed before the runs: {}.</p>\n</article>\n"
    ).format(verdict, anchor, verdict_text(claim), claim["statement"], definitions(facts), claim["rule"])


def _figures(exhibit: Exhibit) -> Markup:
    if exhibit.directory is None:
        return NOTHING
    block = Markup(
        "<figure>\n<img alt='{}' src='data:image/png;base64,{}'>\n"
        "<figcaption><strong>{}.</strong> {}</figcaption>\n</figure>\n"
    )
    specs = {f"{number}_{drawing.name(spec)}": spec for number, spec in enumerate(exhibit.figures, 1)}
    blocks = []
    for path in sorted((exhibit.directory / "figures").glob("*.png"), key=_place):
        spec = specs.get(path.stem)  # none where runs with other flags left a figure out
        title = drawing.title(spec) if spec else path.stem.partition("_")[2].replace("_", " ").capitalize()
        text = drawing.explanation(spec) if spec else ""
        data = base64.b64encode(path.read_bytes()).decode()
        blocks.append(block.format(f"{title}. {text}".strip(), data, title, text))
    return Markup("<h3>Figures</h3>\n{}").format(NOTHING.join(blocks)) if blocks else NOTHING


def _place(path: Path) -> tuple[int, str]:
    """The figure's number, then its name: 10 comes after 9."""
    number = path.stem.partition("_")[0]
    return (int(number) if number.isdecimal() else 0, path.stem)


def _making(exhibit: Exhibit) -> Markup:
    """How the evidence was made, folded."""
    code = Markup("<code>{}</code>")
    evidence, manifest = exhibit.evidence, exhibit.manifest
    if exhibit.directory is None:
        command = f"python -m experiments.{evidence['experiment']}"
        return Markup("<p class='soft'>Not run yet. {} does it.</p>\n").format(code.format(command))
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    device = manifest.get("device", {})
    facts = {
        "Date": str(evidence["created"] or "")[:10],
        "Command": code.format(manifest["command"]) if "command" in manifest else "",
        "Recipe": str(evidence["preset"]),
        "Data": ", ".join(evidence["data"]),
        "Runs": str(len(manifest["runs"])) if "runs" in manifest else "",
        "Computer": " ".join(dict.fromkeys(str(device[key]) for key in ("platform", "kind") if key in device)),
        "Versions": versions,
        "Signatures": code.format(", ".join(evidence["signatures"])) if evidence["signatures"] else "",
    }
    return Markup("<details><summary>How this was run</summary>\n{}</details>\n").format(definitions(facts))


def plural(count: int, thing: str) -> str:
    """``1 claim``, ``2 claims``."""
    return f"{count} {thing}{'s' * (count != 1)}"
