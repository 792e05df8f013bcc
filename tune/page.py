"""search.html: one page that opens offline, light or dark as the system is."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from bikd_fast.report.charts import ticks
from tune.findings import Found, importance, overhead
from tune.records import Row
from tune.space import SPACE, Range

STYLE = Path(__file__).with_name("page.css")


def page(found: Found) -> str:
    """The whole page; the same records give the same page."""
    options, rows = found.state["options"], found.rows
    title = f"Search of {len(rows)} trials"
    influence, chance = importance(rows)
    parts = [
        f"<h1>{title}</h1>", _summary(found),
        _section("Gain over the default", _gains(found)),
        _section("Settings and objective", _key() + _scroll(_parallel(found))),
        '<section class="two">', _half("Learning curves", _curves(found)),
        _half("What mattered", _bars(influence, chance, rows)), "</section>",
        _section("Trials", _scroll(_trials(found))),
        _section("How trials were judged", _how(options, found.state)),
    ]  # fmt: skip
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    head += f"{policy}<title>{title} · bikd_fast</title><style>{STYLE.read_text()}</style></head>"
    return f"{head}<body><main>{''.join(parts)}</main></body></html>\n"


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _half(title: str, inside: str) -> str:
    return f"<div><h2>{escape(title)}</h2>{inside}</div>"


def _scroll(inside: str) -> str:
    return f'<div class="scroll" tabindex="0">{inside}</div>'


def _summary(found: Found) -> str:
    if found.best is None:
        return "<p class='verdict'>No trial came to a result; the table has the reasons.</p>"
    by = {s: sum(row.status == s for row in found.rows) for s in ("finished", "stopped", "failed", "unfinished")}
    counts = ", ".join(f"{count} {name}" for name, count in by.items() if count)
    seconds, share = found.state.get("seconds", 0.0), overhead(found.state, found.rows)
    text = f"Trial {found.best.number} is the best of those that got furthest: objective {found.best.score:.4f}"
    default = found.default
    if default is not None and default.rung == found.best.rung:
        text += f", the job's own settings {default.result['score_own_map']:.4f}"
    cost = f"{counts}." + (f" {seconds:.0f} s, {share:.0%} of them not in training steps." if math.isfinite(share) else "")
    return f"<p class='verdict'>{text}.</p><p class='soft'>{cost}</p>"


def _gains(found: Found) -> str:
    if not found.gains:
        return "<p>Not measured: best and default were not trained with new seeds.</p>"
    main, count = found.gains[0], len(found.gains[0].differences)
    said = f"<p class='verdict'>{main.name.capitalize()}: {main.verdict}.</p>"
    if count > 1:
        said += f"<p>best.yaml holds {escape(found.holds)}.</p>"
    lines = []
    for g in found.gains:
        interval = f"{100 * g.low:+.2f} to {100 * g.high:+.2f}" if math.isfinite(g.low) else "not known"
        cells = [*(f"{100 * statistics.fmean(v):.2f}" for v in (g.default, g.best)), f"{100 * g.mean:+.2f}", interval]
        lines.append(f"<tr><td>{escape(g.name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th></th><th>default</th><th>best</th><th>difference</th><th>95 % interval</th></tr>"
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    note = f"Per cent. Both trained anew, in full, with {seeds} that the search had not seen; test figures chose nothing."
    return f"{said}<div class='scroll'><table>{head}{''.join(lines)}</table></div><p class='soft'>{note}</p>"


def _key() -> str:
    entries = (
        ("--accent", "best"),
        ("--ink", "the job's own settings"),
        ("--low", "others: the higher the contrast, the better at the first rung; dashed: stopped early"),
    )
    return (
        "<div class='key'>" + "".join(f"<span><i style='border-color:var({c})'></i>{t}</span>" for c, t in entries) + "</div>"
    )


def _class(row: Row, found: Found) -> str:
    if found.best is not None and row.trial == found.best.trial:
        return "path best"
    return "path default" if row is found.default else "path" if row.status == "finished" else "path stopped"


def _colour(row: Row, scores: list[float]) -> str:
    low, high = min(scores), max(scores)
    share = (row.history[0][1] - low) / (high - low) if high > low else 0.5
    return f"color-mix(in srgb, var(--ink) {100 * share:.0f}%, var(--low))"


def _parallel(found: Found) -> str:
    """One axis a parameter that varied, the objective at the first rung last; one line a trial that kept its settings."""
    rows = [row for row in found.rows if row.history and not row.result.get("mixed")]
    keys = [k for k in dict.fromkeys(k for r in rows for k in r.values) if len({repr(r.values.get(k)) for r in rows}) > 1]
    if not rows or not keys:
        return "<p>Nothing varied yet.</p>"
    scores = [row.history[0][1] for row in rows]
    axes = [(key, [row.values.get(key) for row in rows]) for key in keys] + [("objective", scores)]
    width, top, bottom = max(900, 62 * len(axes)), 118.0, 400.0
    at = [34 + (width - 110) * i / (len(axes) - 1) for i in range(len(axes))]
    heights, marks = [], []
    for x, (name, values) in zip(at, axes):
        place, low, high = _scale(name, values)
        heights.append([bottom - share * (bottom - top) for share in place])
        short = name.split(".", 1)[-1] if "." in name else name
        marks.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
            f'<text class="name" transform="translate({x:.1f} {top - 22}) rotate(-35)">{escape(short)}</text>'
            f'<text x="{x:.1f}" y="{top - 7}" text-anchor="middle">{high}</text>'
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{low}</text>'
        )
    order = sorted(range(len(rows)), key=lambda i: (_class(rows[i], found) in ("path best", "path default"), scores[i]))
    lines = [
        f'<polyline class="{_class(rows[i], found)}" style="stroke:{_colour(rows[i], scores)}" '
        f'points="{" ".join(f"{x:.1f},{h[i]:.1f}" for x, h in zip(at, heights))}"><title>{_told(rows[i])}</title></polyline>'
        for i in order
    ]
    label = f"Parallel coordinates of {len(rows)} trials over {len(keys)} parameters"
    return f'<svg viewBox="0 0 {width} 424" role="img" aria-label="{label}">{"".join(marks)}{"".join(lines)}</svg>'


def _scale(name: str, values: list[Any]) -> tuple[list[float], str, str]:
    """Where values lie on their axis, 0 to 1, and the names of its ends."""
    if not all(isinstance(v, int | float) for v in values) or all(isinstance(v, bool) for v in values):
        names = sorted({str(v) for v in values})
        return [names.index(str(v)) / max(1, len(names) - 1) for v in values], names[0], names[-1]
    entry = SPACE.get(name)
    low, high = min(values), max(values)
    if isinstance(entry, Range):
        low, high = min(low, entry.low), max(high, entry.high)
        if entry.log and low > 0:  # a user's space may hold 0
            span = math.log(high / low)
            return [math.log(v / low) / span for v in values], f"{low:.3g}", f"{high:.3g}"
    return [(v - low) / (high - low) if high > low else 0.5 for v in values], f"{low:.3g}", f"{high:.3g}"


def _told(row: Row) -> str:
    drawn = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.values.items())
    return str(
        escape(f"trial {row.number}, {row.status}: " + ", ".join(f"rung {r} {s:.4f}" for r, s in row.history) + f"\n{drawn}")
    )


def _curves(found: Found) -> str:
    """Objective by rung, one line a trial."""
    rows = [row for row in found.rows if row.history]
    if not rows:
        return "<p>No results yet.</p>"
    plan = found.state.get("rungs") or []
    last = max(max(r for r, _ in row.history) for row in rows)
    every = [s for row in rows for _, s in row.history]
    low, high = min(every), max(every)
    pad = 0.05 * (high - low) or 0.01
    low, high = low - pad, high + pad
    left, right, top, bottom = 52.0, 500.0, 10.0, 260.0

    def x(rung: int) -> float:
        return left + (right - left - 16) * (rung - 1) / max(1, last - 1) + 8

    def y(score: float) -> float:
        return bottom - (score - low) / (high - low) * (bottom - top)

    marks = "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in ticks(low, high)
    )
    marks += "".join(f'<text x="{x(r):.1f}" y="{bottom + 16}" text-anchor="middle">rung {r}</text>' for r in range(1, last + 1))
    scores, lines = [row.history[0][1] for row in rows], ""
    for row in sorted(rows, key=lambda r: _class(r, found) in ("path best", "path default")):
        colour = _colour(row, scores)
        points = " ".join(f"{x(r):.1f},{y(s):.1f}" for r, s in row.history)
        name = f'class="{_class(row, found)}" style="stroke:{colour}"'
        lines += f"<g><title>{_told(row)}</title><polyline {name} points=\"{points}\"/>" + "".join(
            f'<circle class="dot" cx="{x(r):.1f}" cy="{y(s):.1f}" r="3.2" style="stroke:{colour}"/>' for r, s in row.history
        ) + "</g>"  # fmt: skip
    told = "; ".join(f"rung {i}: " + ", ".join(f"{n} {s} steps" for n, s in rung) for i, rung in enumerate(plan, 1))
    note = f"<p class='soft'>{escape(told)}. Rungs judge different categories: compare within a rung.</p>"
    return (
        f'<svg viewBox="0 0 {right + 8:g} {bottom + 24:g}" role="img" aria-label="Objective by rung">{marks}{lines}</svg>{note}'
    )


def _bars(influence: list[tuple[str, float]], chance: float, rows: list[Row]) -> str:
    if not influence:
        return "<p>Fewer than four trials: nothing can be said.</p>"
    left, right, step = 190.0, 500.0, 19
    parts = []
    for i, (name, value) in enumerate(influence):
        y = 8 + i * step
        style = "rect clear" if value > chance else "rect"
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{style}" x="{left}" y="{y}" width="{value * (right - left):.1f}" height="13" rx="2"/>'
            f'<text x="{left + value * (right - left) + 5:.1f}" y="{y + 11}">{value:.2f}</text>'
        )
    x, height = left + chance * (right - left), 12 + len(influence) * step
    parts.append(f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{height}"/>')
    count = sum(bool(row.history) for row in rows)
    note = f"Rank correlation with the objective at the first rung, without its sign, over {count} trials. "
    note += f"Chance alone exceeds the dashed line ({chance:.2f}) once in twenty."
    head = f'<svg viewBox="0 0 {right + 40:g} {height + 4}" role="img" aria-label="Importance">'
    return f'{head}{"".join(parts)}</svg><p class="soft">{note}</p>'


def _trials(found: Found) -> str:
    keys = list(dict.fromkeys(key for row in found.rows for key in row.values))
    head = "".join(f"<th>{escape(k)}</th>" for k in ("trial", "objective", "rung", "status")) + '<th class="text">reason</th>'
    head += "<th>map</th>" + "".join(f"<th>{escape(k.split('.', 1)[-1])}</th>" for k in keys)
    lines = []
    for row in sorted(found.rows, key=lambda r: (-r.rung, -(r.score if math.isfinite(r.score) else -1), r.number)):
        chosen = row.result.get("map")
        cells = [row.number, f"{row.score:.4f}" if row.rung else "", row.rung or "", row.status]
        maps = f"{chosen['combine']} {chosen['sigma']:g} {chosen['score']}" if chosen else ""
        shown = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in (row.values.get(k, "") for k in keys)]
        best = ' class="best"' if found.best is not None and row.trial == found.best.trial else ""
        why = escape(row.error or row.result.get("reason", "") or "")
        body = (
            "".join(f"<td>{c}</td>" for c in cells)
            + f'<td class="text">{why}</td><td>{maps}</td>'
            + "".join(f"<td>{escape(s)}</td>" for s in shown)
        )
        lines.append(f"<tr{best}>{body}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _how(options: dict[str, Any], state: dict[str, Any]) -> str:
    if options["objective"] == "labelled":
        judged = (
            f"By the labelled pictures in {options['validation']} (--objective labelled): the user's own, not the test set."
        )
    else:
        judged = (
            "By simulated defects (--objective simulated): good pictures that no trial trained on, with defects made by generators "
            "and contents that no training uses, the same for every trial. Test pictures chose nothing."
        )
    what = f"Scheduler {options['scheduler']}, searcher {options['searcher']}, seed {state['base']['seed']}."
    return str(Markup("<p>{}</p><p class='soft'>{}</p>").format(judged, what))
