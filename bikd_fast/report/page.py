"""One self-contained HTML page a run: RUN/report.html."""

import base64
import hashlib
import os
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from bikd_fast.report import contents
from bikd_fast.report.colormap import HEAT
from bikd_fast.report.panel import make_panel, training_charts
from bikd_fast.report.run_folder import RunFolder, read_log, read_run
from bikd_fast.report.table import METRICS, mean_row

MAX_BYTES = 10_000_000
_CONFIG = 200_000  # characters shown of config.yaml
_PICTURE_BYTES = 7_000_000
_CARDS, _FEWEST, _MOST = 240, 12, 72  # pictures on the page; of one category


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from the plain data of the run folder and returns its path.

    Reads config.yaml, metrics.json, environment.json and, per category, predictions.npz and log.jsonl; pictures and
    masks where predictions.npz says they lie. What is missing or damaged is named on the page. The page is under 10 MB
    and loads nothing from anywhere. The same files give the same page, byte for byte.
    Raises FileNotFoundError where run is no folder, ValueError where it holds nothing of a run.
    """
    run = Path(run)
    for share in (1.0, 0.5, 0.2, 0.0):  # many rows or long paths leave less room for pictures
        page = _page(read_run(run), share).encode("utf-8", errors="replace")
        if len(page) < MAX_BYTES:
            break
    target = run / "report.html"
    draft = target.with_suffix(".html.part")
    draft.write_bytes(page)
    os.replace(draft, target)
    return target


def _page(run: RunFolder, share: float) -> str:
    several = len(run.categories) > 1
    limit = int(share * min(_MOST, max(_FEWEST, _CARDS // len(run.categories))))
    joint = several and (run.path / "log.jsonl").is_file()  # one model for all categories logs once
    left = int(share * _PICTURE_BYTES)
    panels = []
    for done, category in enumerate(run.categories):
        budget = left // (len(run.categories) - done)
        panel = make_panel(category, run.path, run.notes, limit=limit, budget=budget, log=not joint)
        left -= sum(card.bytes for card in panel.cards)
        panels.append(panel)
    training = training_charts(read_log(run.path, run.notes)) if joint else []
    script, style = _file("page.js"), _file("page.css").replace("RAMP", _ramp())
    data, listed, prefix = contents.data(panels)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["figure"] = _figure
    return environment.from_string(_file("page.html.j2")).render(
        run=run,
        panels=panels,
        training=training,
        total=contents.totals(panels),
        notes=_merged(run.notes, [panel.name for panel in panels]),
        headline=[(key, value) for key, value in mean_row(run.metrics).items() if key in _HEADLINE],
        table=contents.table(run.metrics, panels),
        names=METRICS,
        fpr_limit=contents.fpr_limit(panels),
        kind_columns=[
            [key for key in METRICS if key != "image_auroc" and any(key in row.recorded for row in panel.kinds)]
            for panel in panels
        ],
        all_kinds=sorted({card.kind for panel in panels for card in panel.cards}),
        shown=sum(len(panel.cards) for panel in panels),
        listed=listed,
        prefix=prefix,
        config=_highlight(run.config[:_CONFIG]),
        environment=contents.flat(run.environment),
        other=contents.other(panels),
        data=data,
        script=Markup(script),
        style=Markup(style),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _merged(notes: list[str], categories: list[str]) -> list[str]:
    """Notes that say the same of several categories become one."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        name = next((name for name in categories if note.startswith(f"{name}: ")), "")
        by_text.setdefault(note[len(name) + 2 :] if name else note, []).append(name)
    return [f"{', '.join(names)}: {text}" if any(names) else text for text, names in by_text.items()]


def _highlight(text: str) -> Markup:
    """YAML text with its keys and comments marked."""
    lines = []
    for line in text.splitlines():
        head, colon, tail = line.partition(":")
        if line.lstrip().startswith("#"):
            lines.append(Markup("<i>{}</i>").format(line))
        elif colon and (not tail or tail[0] == " ") and not set(head) & set("'\"{[#"):
            lines.append(Markup("<b>{}</b>:{}").format(head, tail))
        else:
            lines.append(escape(line))
    return Markup("\n").join(lines)


def _figure(value: float) -> str:
    """Four significant digits, zeros kept where that lines columns up."""
    return f"{value:#.4g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"


def _ramp() -> str:
    return ", ".join("#" + bytes(HEAT[at]).hex() for at in range(0, 256, 51))


def _file(name: str) -> str:
    return resources.files("bikd_fast.report").joinpath("page_files", name).read_text("utf-8")


_HEADLINE = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "aupro")
