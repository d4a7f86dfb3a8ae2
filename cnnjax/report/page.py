"""One HTML page per experiment: verdicts, figures, table, and how it was run.

The page stands alone (no script, no link, no font; figures are inlined) and holds no date, so the
same rows give the same bytes. HTML is ``Markup``, whose ``format`` and ``join`` escape whatever is not: nothing that
comes from an experiment, a run or a file can add an element.
"""

import base64
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnnjax.process import write_atomically
from cnnjax.report import excerpt
from cnnjax.report import figures as drawing
from cnnjax.report.table import (
    CELL_MEANING,
    VERDICT_STYLES,
    Row,
    cell,
    conditions,
    effect_text,
    heading,
    label,
    records,
    seeds_text,
    subject,
    summary_table,
    value_text,
    write_results_csv,
)
from cnnjax.strict_json import encode
from cnnjax.typing import UsageError

LISTED_ENTRIES = 1000  # of the manifest
CSS = Markup("""
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6168; --page: #fbfbfa; --card: #fff;
  --line: #d9dcdf; --reproduced: #0b6b3a; --refuted: #a8200d; --inconclusive: #7a5200; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --soft: #a3a9b0; --page: #16181b;
  --card: #1e2125; --line: #383d43; --reproduced: #5fd08f; --refuted: #ff8c78; --inconclusive: #eabb55; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); break-after: avoid; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .6rem; } .card h3 { margin-top: .35rem; }
p { margin: 0 0 .75rem; max-width: 70ch; }
pre, code { font: .86em/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; margin: .5rem 0; padding: .7rem .9rem; border: 1px solid var(--line);
  border-radius: 6px; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--verdict);
  border-radius: 6px; padding: 1rem 1.2rem; margin: 0 0 1rem; break-inside: avoid; }
.reproduced { --verdict: var(--reproduced); } .refuted { --verdict: var(--refuted); }
.inconclusive { --verdict: var(--inconclusive); }
.badge { color: var(--verdict); font-weight: 700; margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; color: var(--soft); }
figure { margin: 0 0 2rem; break-inside: avoid; }
figure img { display: block; width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px;
  padding: 8px; }
figcaption { margin-top: .4rem; max-width: 80ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; break-inside: avoid; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
.number { text-align: right; } td.number { white-space: nowrap; }
@media print { :root { --page: #fff; color-scheme: light; } body { font-size: 10pt; }
  main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  .card details::details-content { content-visibility: visible; } }
""")
NOTHING = Markup("")


def write(
    directory: str | Path,
    *,
    experiment: str,
    title: str,
    introduction: str,
    rows: Sequence[Row],
    verdicts: Sequence[Any],
    figures: Sequence[drawing.FigureSpec],
    manifest: Mapping[str, Any],
    metrics: Sequence[str],
    measured: Sequence[Row] = (),
) -> Path:
    """Writes ``report.html``, ``results.csv`` and ``figures/<number>_<name>.png`` and ``.svg``.

    Where something was measured without training, ``measured.csv`` holds it.

    Args:
      directory: of the sweep; it must be there.
      experiment: the experiment's name.
      title: a sentence.
      introduction: plain text, such as the experiment's docstring: paragraphs between blank lines;
        indented ones are kept as they are.
      rows: the finished runs, in the order in which their conditions shall appear.
      verdicts: ``cnnjax.claims.Verdict``, in order of importance.
      figures: what to draw.
      manifest: how the runs were made; ``command``, ``versions`` (name to version) and ``data``
        (the fingerprint) are shown where they exist, and all of it as JSON.
      metrics: the columns of the table.
      measured: rows of ``claims.measured``.

    Returns:
      The path of ``report.html``.

    Raises:
      UsageError: there are no rows, no finished run has one of ``metrics``, or a figure does not
        suit the rows.
    """
    if not rows:
        raise UsageError(f"Experiment {experiment!r} has no finished run to report. Run it first.")
    directory = Path(directory)
    (directory / "figures").mkdir(exist_ok=True)
    write_results_csv(directory / "results.csv", rows)
    if measured:
        write_results_csv(directory / "measured.csv", measured)
    header = Markup("<header>\n<p class='soft'>{}</p>\n<h1>{}</h1>\n{}</header>\n")
    parts = [
        header.format(experiment, title, _prose(introduction)),
        _section("Verdicts", _verdicts(verdicts)),
        _section("Figures", _figures(directory / "figures", figures, rows, measured)) if figures else NOTHING,
        _section("Results at the last step", _results(rows, metrics) + _undone(rows)),
        _section("Measured without training", _measured(measured)) if measured else NOTHING,
        _section("How this was run", _run(rows, manifest)),
    ]
    path = directory / "report.html"
    write_atomically(path, document(f"{experiment}: {title}", NOTHING.join(parts)))
    return path


def document(title: str, body: Markup, css: Markup = NOTHING) -> Markup:
    """A whole page that stands alone.

    Args:
      title: plain text.
      body: HTML.
      css: what the page needs beside ``CSS``.
    """
    page = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{}</title>
<style>{}</style>
</head>
<body>
<main>
{}</main>
</body>
</html>
""")
    return page.format(title, CSS + css, body)


def _section(name: str, content: Markup) -> Markup:
    return Markup("<section>\n<h2>{}</h2>\n{}</section>\n").format(name, content)


def _prose(text: str) -> Markup:
    preformatted, paragraph = Markup("<pre>{}</pre>\n"), Markup("<p>{}</p>\n")
    blocks = [block.strip("\n") for block in text.split("\n\n") if block.strip()]
    return NOTHING.join(
        preformatted.format(textwrap.dedent(block)) if block.startswith(" ") else paragraph.format(block)
        for block in blocks
    )


def definitions(entries: Mapping[str, str]) -> Markup:
    """A description list of names, and text or HTML; empty entries are left out."""
    item = Markup("<dt>{}</dt><dd>{}</dd>\n")
    items = NOTHING.join(item.format(name, content) for name, content in entries.items() if content)
    return Markup("<dl>\n{}</dl>\n").format(items)


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], numbers: range, caption: str) -> Markup:
    """A table of plain text; the columns in ``numbers`` are aligned to the right."""
    right = Markup(" class='number'")

    def line(cell_of: Markup, cells: Sequence[str]) -> Markup:
        texts = (cell_of.format(right if place in numbers else "", text) for place, text in enumerate(cells))
        return Markup("<tr>{}</tr>\n").format(NOTHING.join(texts))

    heads = line(Markup("<th{}>{}</th>"), header)
    body = NOTHING.join(line(Markup("<td{}>{}</td>"), cells) for cells in lines)
    return Markup(
        "<div class='scroll'><table>\n<caption>{}</caption>\n<thead>{}</thead>\n<tbody>{}</tbody>\n</table></div>\n"
    ).format(caption, heads, body)


# -------------------------------------------------------------------------------------- Verdicts

VERDICT_MEANING = """Each claim and the rule that judges it were written down before the runs. Reproduced: the
runs support the claim. Refuted: they support its opposite. Inconclusive: they decide neither way, which is no
evidence that there is no effect. Effects are mean differences between runs that share a seed."""


def _verdicts(verdicts: Sequence[Any]) -> Markup:
    if not verdicts:
        return Markup("<p>This experiment makes no claim.</p>\n")
    return NOTHING.join(map(_card, verdicts)) + Markup("<p class='soft'>{}</p>\n").format(VERDICT_MEANING)


def _card(verdict: Any) -> Markup:
    sign, _ = VERDICT_STYLES[verdict.verdict]
    tested, exact = not math.isnan(verdict.p_adjusted), verdict.rule.startswith("exact")
    facts = {
        "effect [95 % interval]": "" if exact else effect_text(verdict),
        "largest deviation": effect_text(verdict) if exact else "",
        "cases" if exact else "seeds": seeds_text(verdict),
        "p of the claim, Holm-adjusted": f"{verdict.p_adjusted:.2g}" if tested else "",
        "note": verdict.note,
    }
    return Markup(
        "<article class='card {verdict}' id='{id}'>\n<p class='badge'>{badge}</p>\n<h3>{statement}</h3>\n{facts}"
        "<details><summary>Rule and source</summary><p>Rule: {rule}.</p><p>Lecture: {source}</p></details>\n"
        "</article>\n"
    ).format(
        verdict=verdict.verdict,
        id=verdict.id,
        badge=f"{sign} {verdict.verdict.capitalize()}",
        statement=verdict.statement,
        facts=definitions(facts),
        rule=verdict.rule,
        source=verdict.source,
    )


# --------------------------------------------------------------------------------------- Figures


def _figures(
    directory: Path, specs: Sequence[drawing.FigureSpec], rows: Sequence[Row], measured: Sequence[Row]
) -> Markup:
    block = Markup(
        "<figure>\n<img alt='{}' src='data:image/svg+xml;base64,{}'>\n"
        "<figcaption>Figure {}. {}</figcaption>\n</figure>\n"
    )
    blocks = []
    for number, spec in enumerate(specs, 1):
        stem = directory / f"{number}_{drawing.name(spec)}"
        _, svg = drawing.save(drawing.draw(spec, rows, measured), stem)
        # In an <img>, the ids inside one SVG cannot clash with those of another.
        data = base64.b64encode(svg.read_bytes()).decode()
        name, note = drawing.title(spec), drawing.note(spec, rows)
        blocks.append(block.format(f"{name}. {note}", data, number, drawing.explanation(spec)))
    return NOTHING.join(blocks)


# --------------------------------------------------------------------------------------- Results


def _results(rows: Sequence[Row], metrics: Sequence[str]) -> Markup:
    found = conditions(rows)
    shown, note = excerpt.extremes(found, metrics[0], excerpt.TABLE_CONDITIONS) if metrics else (found, "")
    lines = [
        [record.label, *(cell(metric, record.metrics[metric]) for metric in metrics), record.runs]
        for record in records(shown, metrics)
    ]
    header = [subject(found), *map(heading, metrics), "runs"]
    caption = " ".join(filter(None, [CELL_MEANING, note, "Every run is in results.csv."]))
    return _table(header, lines, range(1, 1 + len(metrics)), caption)


def _measured(rows: Sequence[Row]) -> Markup:
    """A folded table for each kind of row: those that name the same things and have the same metrics."""
    kinds: dict[tuple[tuple[str, ...], ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault((tuple(row["assignment"]), tuple(row["metrics"])), []).append(row)
    block, blocks = Markup("<details><summary>{}</summary>\n{}</details>\n"), []
    for (_, metrics), members in kinds.items():
        lines = [
            [record.label, *(cell(metric, record.metrics[metric]) for metric in metrics)]
            for record in summary_table(members, metrics)
        ]
        header = [subject(conditions(members)), *map(heading, metrics)]
        table = _table(header, lines, range(1, len(header)), "Cells: mean ± half-width of its 95 % interval (number).")
        summary = f"{', '.join(map(heading, metrics))} against {subject(conditions(members))}"
        blocks.append(block.format(summary, table))
    return NOTHING.join(blocks) + Markup("<p class='soft'>Every number is in measured.csv.</p>\n")


def _undone(rows: Sequence[Row]) -> Markup:
    lines = []
    for row in rows:
        if row["status"] != "done":
            step, error = row["diverged_step"], row["error"]
            what = f"diverged at step {step}" if row["status"] == "diverged" else f"failed: {error}"
            lines.append([label(row["assignment"]), str(row["seed"]), what])
    if not lines:
        return NOTHING
    caption = "Diverged: the loss was no longer a finite number. Neither kind enters a mean."
    if len(lines) > excerpt.LISTED_RUNS:
        caption += f" These are the first {excerpt.LISTED_RUNS} of {len(lines):,}; results.csv has all."
        lines = lines[: excerpt.LISTED_RUNS]
    return Markup("<h3>Runs that did not finish</h3>\n") + _table(
        ["condition", "seed", "what happened"], lines, range(1, 2), caption
    )


# ------------------------------------------------------------------------------------------- Run


def _run(rows: Sequence[Row], manifest: Mapping[str, Any]) -> Markup:
    code = Markup("<code>{}</code>")
    speeds = [row["images_per_second"] for row in rows if row["status"] == "done"]
    statuses = Counter(row["status"] for row in rows)
    ended = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    programs = _count({row["program"] for row in rows}, "program")
    running = sum(row["seconds"] or 0.0 for row in rows)
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    facts = {
        "command": code.format(manifest["command"]) if "command" in manifest else "",
        "runs": f"{len(rows)} ({ended})",
        "compiled": f"{programs} for {_count(rows, 'run')}; runs of one program differ only in numbers "
        "(seed, rates, strengths) that are its inputs",
        "time": f"{compile_seconds(rows):,.1f} s compiling, {running:,.1f} s running, summed over runs",
        "speed": f"{statistics.median(speeds):,.0f} images/s, median over runs" if speeds else "",
        "versions": versions,
        "data": code.format(manifest["data"]) if "data" in manifest else "",
    }
    folded = encode(_without_long_lists(manifest), indent=2, sort_keys=True)
    whole = Markup("{}{}<details><summary>Manifest</summary><pre>{}</pre></details>\n")
    return whole.format(definitions(facts), _signatures(rows, manifest), folded)


def _without_long_lists(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with how many runs and points it names, where these are many."""
    configuration = manifest.get("configuration")
    parts = [manifest, configuration if isinstance(configuration, Mapping) else {}]
    short = [
        {
            name: f"{len(value):,} entries; see manifest.json"
            if name in ("runs", "grid", "seeds") and len(value) > LISTED_ENTRIES
            else value
            for name, value in part.items()
        }
        for part in parts
    ]
    return {**short[0], **({"configuration": short[1]} if short[1] else {})}


def compile_seconds(rows: Sequence[Row]) -> float:
    """Compiling time of all runs: each worker compiles a program once, whichever of its runs carry the time."""
    seconds: dict[tuple[Any, Any], float] = {}
    for row in rows:
        key = (row["program"], row["worker"])
        seconds[key] = max(seconds.get(key, 0.0), row["compile_seconds"] or 0.0)
    return sum(seconds.values())


SIGNATURE_MEANING = """The execution signature is all that decides the last bits of a result: two runs of one
signature, condition and seed have identical parameters."""


def other_signatures(rows: Sequence[Row], manifest: Mapping[str, Any]) -> list[Row]:
    """The rows that were made under another signature than the manifest has for their runs, such as by other code."""
    asked = manifest.get("runs", {})
    return [
        row
        for row in rows
        if row.get("earlier_signatures") or asked.get(row["run_id"], row["signature_digest"]) != row["signature_digest"]
    ]


def _signatures(rows: Sequence[Row], manifest: Mapping[str, Any]) -> Markup:
    fields = dict.fromkeys(field for row in rows for field in row["signature"])
    lines = [[field, _counted(Counter(value_text(row["signature"].get(field)) for row in rows))] for field in fields]
    digests = _count({row["signature_digest"] for row in rows}, "signature")
    table = _table(["field", "value"], lines, range(0), f"{digests}. {SIGNATURE_MEANING}")
    mixed = [
        condition.label
        for condition in conditions(rows)
        if len({row["signature_digest"] for row in condition.rows}) > 1
    ]
    warning = Markup(
        "<p><strong>⚠ Seeds of one condition ran under different signatures</strong>, so they are not "
        "exactly comparable: {}.</p>\n"
    ).format("; ".join(mixed))
    others = other_signatures(rows, manifest)
    count = f"{len(others)} run{'s' * (len(others) != 1)} of {len(rows)}"
    marks = Markup(
        "<p><strong>⚠ {} were made under another execution signature</strong> than the sweep has now.</p>\n"
    ).format(count)
    details = Markup("<details{}><summary>Execution signature</summary>\n{}</details>\n")
    folded = details.format(" open" if mixed or others else "", table)
    return (warning if mixed else NOTHING) + (marks if others else NOTHING) + folded


def _counted(values: Counter[str]) -> str:
    """``cpu``, or ``cpu (15 runs), gpu (15 runs)``."""
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({count} run{'s' * (count != 1)})" for value, count in values.items())


def _count(things: Collection[Any], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"
