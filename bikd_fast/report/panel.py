"""What the page says about one category: figures, curves, kinds, pictures, training."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from bikd_fast.report import charts
from bikd_fast.report.curves import count_pixels, image_curves, pixel_curves, recorded_curves, thin
from bikd_fast.report.gallery import Card, make_cards, read_mask
from bikd_fast.report.judge import FALSE_ALARM, MISSED, KindRow, errors, kind_rows, outcomes
from bikd_fast.report.run_folder import CategoryFolder, Predictions, read_log, read_predictions
from bikd_fast.report.table import METRICS, number


@dataclass
class Panel:
    name: str
    metrics: dict[str, Any]
    found: Predictions | None = None  # without its maps
    outcome: list[str] = field(default_factory=list)
    error: np.ndarray = field(default_factory=lambda: np.zeros(0))
    charts: list[tuple[str, str, Markup]] = field(default_factory=list)  # title, caption, drawing
    histogram: Markup | None = None
    kinds: list[KindRow] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    training: list[tuple[str, str, Markup]] = field(default_factory=list)
    threshold: list[str] = field(default_factory=list)  # how it was chosen, in sentences

    @property
    def defects(self) -> int:
        return 0 if self.found is None else int(self.found.label.sum())

    @property
    def normals(self) -> int:
        return 0 if self.found is None else int((~self.found.label).sum())

    @property
    def judged(self) -> bool:
        return self.found is not None and not math.isnan(self.found.threshold)

    def count(self, outcome: str) -> int:
        return self.outcome.count(outcome)

    @property
    def missed(self) -> int:
        return self.count(MISSED)

    @property
    def false_alarms(self) -> int:
        return self.count(FALSE_ALARM)


def make_panel(category: CategoryFolder, base: Path, notes: list[str], *, limit: int, budget: int, log: bool) -> Panel:
    """Reads a category's files and draws what they allow; every shortcoming is added to notes.

    limit, budget: number and bytes of its pictures. log: whether a training log is expected in its folder.
    """
    panel = Panel(category.name, category.metrics)
    if log:
        panel.training = training_charts(read_log(category.folder, notes, category.name))
    found = read_predictions(category, notes)
    if found is None:
        return panel
    _remark(found, category.metrics, category.name, notes)
    panel.outcome, panel.error = outcomes(found), errors(found)
    panel.threshold = threshold_story(category.metrics, found)
    panel.histogram = charts.histogram(found.score, found.label, found.threshold)
    panel.kinds = kind_rows(found, category.metrics)
    panel.cards, unreadable = make_cards(found, base, limit=limit, budget=budget)
    if unreadable:
        gone = next(card.path for card in panel.cards if not card.picture)
        notes.append(
            f"{category.name}: {unreadable} of {len(panel.cards)} gallery pictures could not be read, one of them "
            f"{gone}. The data set was moved, changed or removed after the run; the scores are still those of the run."
        )
    panel.charts = _metric_charts(category, found, base, notes)
    maps_left_out = {name: value for name, value in vars(found).items() if name != "map"}
    panel.found = Predictions(**maps_left_out, map=None)  # a run of many categories would not fit memory otherwise
    return panel


def threshold_story(metrics: dict[str, Any], found: Predictions) -> list[str]:
    """How the threshold came about and what it promises: metrics.json's "threshold", a metrics.Threshold as a dict."""
    entry = metrics.get("threshold")
    if math.isnan(found.threshold):
        why = entry.get("promise") if isinstance(entry, dict) else None
        none = "This run records no threshold: pictures are ranked, but not called right or wrong."
        return [none, *([str(why).rstrip(".") + "."] if why else [])]
    value = f"Threshold {found.threshold:.6g}"
    if not isinstance(entry, dict) or not (entry.get("method") or entry.get("promise")):
        return [f"{value}. The run does not record how it was chosen, so nothing is promised about new pictures."]
    method, target = str(entry.get("method") or "a rule that is not recorded"), number(entry.get("target"))
    aim = _AIMS.get(method, method) + ("" if math.isnan(target) else f" {100 * target:.4g} %")
    source = f" on {entry['n']} {entry['source']} pictures" if entry.get("n") and entry.get("source") else ""
    said = [f"{value}, chosen for {aim}{source}."]
    if entry.get("promise"):
        said.append(str(entry["promise"]).rstrip(".") + ".")
    if entry.get("met") is False:
        said.append("The aim is not met: there were too few pictures to promise it.")
    if math.isfinite(found.pixel_threshold) and found.pixel_threshold != found.threshold:
        said.append(f"Maps are outlined at a threshold of their own, {found.pixel_threshold:.6g}.")
    return said


def training_charts(series: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[tuple[str, str, Markup]]:
    """(name, last value, drawing) of every logged figure: loss and its terms first, rates and speed last."""

    def rank(key: str) -> tuple[int, str]:
        if key in _FIRST:
            return _FIRST.index(key), ""
        return (len(_FIRST) + 1 + _LAST.index(key), "") if key in _LAST else (len(_FIRST), key)

    drawn = []
    for key in sorted(series, key=rank)[:_MOST_LOGGED]:
        step, value = series[key]
        if (np.isfinite(value) & np.isfinite(step)).any():
            title = key.replace("_", " ")
            drawn.append((title, f"{value[-1]:.4g}", charts.training_chart(title, step, value)))
    return drawn


def _metric_charts(
    category: CategoryFolder, found: Predictions, base: Path, notes: list[str]
) -> list[tuple[str, str, Markup]]:
    recorded = recorded_curves(category.metrics.get("curves"))
    curves = {f"image_{name}": curve for name, curve in image_curves(found.score, found.label).items()}
    about = category.metrics.get("about")
    limit = number(about.get("fpr_limit")) if isinstance(about, dict) else math.nan
    limit = limit if 0 < limit <= 1 else 0.3
    copies = "" if found.map is None else f"drawn from the display copies ({found.map.shape[1]} px, float16)"
    if not {"pixel_roc", "pixel_pr", "pro"} <= set(recorded) and found.map is not None:
        try:
            drawn = pixel_curves(count_pixels(_pairs(found, base)), limit)
            curves |= {name if name == "pro" else f"pixel_{name}": curve for name, curve in drawn.items()}
        except (OSError, ValueError) as problem:
            notes.append(f"{category.name}: no pixel curves, a ground-truth mask could not be read ({problem}).")
    curves |= recorded
    result = []
    for name, (title, x_name, y_name, key) in _CURVES.items():
        if name not in curves:
            continue
        figure = number(category.metrics.get(key))
        source = "" if name in recorded or name.startswith("image") else copies
        exact = "" if math.isnan(figure) else f"{METRICS[key]} {100 * figure:.2f} %"
        caption = "; ".join(filter(None, [exact, source and f"curve {source}, the figure from full resolution"]))
        if source and not exact:
            caption = f"curve {source}"
        drawing = charts.line_chart(
            [(name.split("_")[0], thin(curves[name], width=limit if name == "pro" else 1.0))],
            label=f"{title} of {category.name}. {exact}",
            x_name=x_name,
            y_name=y_name,
            x_range=(0.0, limit if name == "pro" else 1.0),
            y_range=(0.0, 1.0),
            diagonal=name.endswith("roc"),
            fill=True,
        )
        result.append((title, caption, drawing))
    errors_drawn = charts.error_chart(found.score, found.label, found.threshold)
    if errors_drawn:
        caption = "Rising: defects missed. Falling: normal pictures called defective."
        result.insert(2, ("Errors by threshold", caption, errors_drawn))
    return result


def _pairs(found: Predictions, base: Path) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Maps with their masks. A defect without a mask file is left out: nobody said which of its pixels are normal."""
    assert found.map is not None
    for at in range(len(found.path)):
        if not found.label[at]:
            yield found.map[at], None
        elif found.mask_path[at]:
            yield found.map[at], read_mask(found, at, base, None)


def _remark(found: Predictions, metrics: dict[str, Any], name: str, notes: list[str]) -> None:
    broken = int(np.isnan(found.score).sum())
    if broken:
        notes.append(f"{name}: {broken} score(s) are NaN. They are listed, left out of curves, and never judged.")
    if found.map is None:
        notes.append(f"{name}: no maps in predictions.npz: no heat maps and no pixel curves.")
    for skipped in metrics.get("skipped") or []:
        if isinstance(skipped, dict):
            notes.append(f"{name}: {skipped.get('path')} was left out of the evaluation: {skipped.get('reason')}")
    without = sum(bool(flag) and not mask for flag, mask in zip(found.label, found.mask_path))
    if without:
        notes.append(
            f"{name}: {without} of {int(found.label.sum())} defective pictures have no ground-truth mask; they are "
            "left out of the pixel curves."
        )


_AIMS = {  # methods of bikd_fast.metrics.thresholds
    "false_alarm_rate": "a false-alarm rate of at most",
    "recall": "a recall of at least",
    "f1": "the highest F1",
}
_MOST_LOGGED = 60  # figures drawn
_FIRST = ["loss", "forward", "backward"]
_LAST = ["beta", "lr", "pictures_per_second", "share_data", "share_communication", "share_compute", "share_other", "seconds_left"]
_CURVES = {
    "image_roc": ("Image ROC", "false-alarm rate", "defects caught", "image_auroc"),
    "image_pr": ("Image precision and recall", "recall", "precision", "image_ap"),
    "pixel_roc": ("Pixel ROC", "false-positive rate", "true-positive rate", "pixel_auroc"),
    "pixel_pr": ("Pixel precision and recall", "recall", "precision", "pixel_ap"),
    "pro": ("Per-region overlap (PRO)", "false-positive rate", "mean region overlap", "aupro"),
}
