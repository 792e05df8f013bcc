"""Charts as inline SVG. Colours and type come from the page's style sheet, so that a chart follows the theme."""

import math
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from bikd_fast.report.curves import Curve

_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 10.0, 36.0


def line_chart(
    lines: list[tuple[str, Curve]],
    *,
    label: str,
    x_name: str,
    y_name: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    width: float = 340.0,
    height: float = 260.0,
    diagonal: bool = False,
    mark: float = math.nan,
    fill: bool = False,
) -> Markup:
    """One chart of lines (style-sheet class, (x, y)); the last one answers the pointer.

    label is read out by screen readers. mark draws the threshold at an x.
    """
    box = _Box(x_range, y_range, width, height)
    parts = [_axes(box, x_name, y_name)]
    if diagonal:
        ends = f'x1="{box.left}" y1="{box.bottom:.1f}" x2="{box.right}" y2="{box.top}"'
        parts.append(f'<line class="chance" {ends}/>')
    if math.isfinite(mark):
        x_mark = f"{box.x(mark):.1f}"
        parts.append(f'<line class="threshold" x1="{x_mark}" x2="{x_mark}" y1="{box.top}" y2="{box.bottom:.1f}"/>')
    for number, (style, (x, y)) in enumerate(lines):
        points = " ".join(f"{box.x(a):.1f},{box.y(b):.1f}" for a, b in zip(x.tolist(), y.tolist()))
        if fill and number == len(lines) - 1:
            ends = f"{box.x(float(x[-1])):.1f},{box.bottom:.1f} {box.x(float(x[0])):.1f},{box.bottom:.1f}"
            parts.append(f'<polygon class="fill" points="{points} {ends}"/>')
        parts.append(f'<polyline class="line {escape(style)}" points="{points}"/>')
    return _svg(box, label, "".join(parts), f' data-names="{escape(x_name)}|{escape(y_name)}"')


def histogram(score: np.ndarray, label: np.ndarray, threshold: float) -> Markup:
    """Scores (N,) of normal pictures upwards and of defects (label) downwards, in % of each class, with the threshold.

    Scores that are not finite are left out.
    """
    known = np.isfinite(score)
    score, label = score[known].astype(float), label[known]
    low, high = (float(score.min()), float(score.max())) if len(score) else (0.0, 1.0)
    if math.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    margin = (high - low) * 0.03 or max(abs(low), 1.0) * 0.05
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, int(np.clip(2 * len(score) ** 0.5, 16, 48)) + 1)
    good = 100 * np.histogram(score[~label], edges)[0] / max(1, (~label).sum())
    bad = 100 * np.histogram(score[label], edges)[0] / max(1, label.sum())
    reach = max(5.0, float(good.max()), float(bad.max())) * 1.08
    box = _Box((low, high), (-reach, reach), 420.0, 270.0)
    parts = [_axes(box, "image score", ("% of defects", "% of normal"))]
    for style, share, sign in (("good", good, 1), ("bad", bad, -1)):
        for at in np.nonzero(share)[0]:
            x, width = box.x(edges[at]), box.x(edges[at + 1]) - box.x(edges[at])
            top, bottom = sorted((box.y(0), box.y(sign * share[at])))
            place = f'x="{x + 0.5:.1f}" y="{top:.1f}" width="{max(1, width - 1):.1f}" height="{bottom - top:.1f}"'
            parts.append(f'<rect class="bar {style}" {place} rx="1"/>')
    parts.append(f'<line class="zero" x1="{box.left}" y1="{box.y(0):.1f}" x2="{box.right}" y2="{box.y(0):.1f}"/>')
    if math.isfinite(threshold):
        x = box.x(threshold)
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{box.top}" y2="{box.bottom:.1f}"/>')
        parts.append(f'<line class="trial" x1="{x:.1f}" x2="{x:.1f}" y1="{box.top}" y2="{box.bottom:.1f}"/>')
    text = f"Histogram of image scores: {(~label).sum()} normal pictures, {label.sum()} with defects"
    return _svg(box, text, "".join(parts), f' data-range="{low:.9g} {high:.9g}"')


def error_chart(score: np.ndarray, label: np.ndarray, threshold: float) -> Markup | None:
    """Shares of defects missed and of normal pictures called defective, by threshold; None without both classes."""
    known = np.isfinite(score)
    good, bad = np.sort(score[known & ~label]).astype(float), np.sort(score[known & label]).astype(float)
    if not len(good) or not len(bad):
        return None
    low, high = min(good[0], bad[0]), max(good[-1], bad[-1])
    at = np.linspace(low, high if high > low else low + 1, 160)
    missed = np.searchsorted(bad, at, "left") / len(bad)
    alarms = 1 - np.searchsorted(good, at, "left") / len(good)
    return line_chart(
        [("alarms", (at, alarms)), ("missed", (at, missed))],
        label="Shares of defects missed and of normal pictures called defective, by threshold",
        x_name="threshold",
        y_name="share",
        x_range=(float(at[0]), float(at[-1])),
        y_range=(0.0, 1.0),
        mark=threshold if low <= threshold <= high else math.nan,
    )


def training_chart(name: str, step: np.ndarray, value: np.ndarray) -> Markup:
    """A logged figure over steps: the raw values faint, their running mean strong where they are noisy.

    Values that are not finite are left out.
    """
    known = np.isfinite(value) & np.isfinite(step)
    step, value = step[known].astype(float), value[known].astype(float)
    lines = [("mean", _thin(step, value))]
    turns = np.count_nonzero(np.diff(np.sign(np.diff(value)))) if len(value) > 40 else 0
    if turns > len(value) / 5:  # a schedule or a smooth curve is shown as it is
        lines = [("raw", _thin(step, value)), ("mean", _thin(step, _running_mean(value)))]
    low, high = float(value.min()), float(value.max())
    pad = (high - low) * 0.06 or max(abs(low), 1e-9) * 0.1
    first, last = float(step.min()), float(step.max())
    text = f"{name} over training steps: first {value[0]:.4g}, last {value[-1]:.4g}"
    return line_chart(
        lines,
        label=text,
        x_name="step",
        y_name="",
        x_range=(first, last if last > first else first + 1),
        y_range=(low - pad if low < 0 or low - pad > 0 else 0.0, high + pad),
        width=260,
        height=160,
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], roughly `about` of them, steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= raw * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 12) + 0.0 if step >= 1e-9 else at * step for at in range(first, last + 1)]


class _Box:
    """The plotting area and its two scales."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], width: float, height: float) -> None:
        self.x_range, self.y_range, self.width, self.height = x_range, y_range, width, height
        self.left, self.right, self.top, self.bottom = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def _axes(box: _Box, x_name: str, y_name: str | tuple[str, str]) -> str:
    """Grid, ticks, names. A pair of y names stands for the lower and the upper half of a mirrored axis."""
    mirrored = isinstance(y_name, tuple)
    parts = []
    y_ticks = ticks(*box.y_range, about=5 if box.height > 200 else 4)
    for tick, text in zip(y_ticks, tick_labels([abs(tick) for tick in y_ticks] if mirrored else y_ticks)):
        y = box.y(tick)
        parts.append(f'<line class="grid" x1="{box.left}" x2="{box.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{box.left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    x_ticks = ticks(*box.x_range, about=5 if box.width > 300 else 4)
    for tick, text in zip(x_ticks, tick_labels(x_ticks)):
        x, y = box.x(tick), box.bottom + 15
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text}</text>')
    middle = (box.left + box.right) / 2
    parts.append(f'<line class="axis" x1="{box.left}" x2="{box.right}" y1="{box.bottom:.1f}" y2="{box.bottom:.1f}"/>')
    parts.append(f'<text class="name" x="{middle}" y="{box.height - 4}" text-anchor="middle">{escape(x_name)}</text>')
    height = box.bottom - box.top
    names = zip(y_name, (0.75, 0.25)) if isinstance(y_name, tuple) else ((y_name, 0.5),)
    for name, at in names:
        turned = f'transform="translate(9 {box.top + at * height:.1f}) rotate(-90)"'
        parts.append(f'<text class="name" {turned} text-anchor="middle">{escape(name)}</text>' if name else "")
    return "".join(parts)


def _svg(box: _Box, label: str, inside: str, data: str) -> Markup:
    scale = f"{box.left} {box.top} {box.right} {box.bottom:.1f} {box.x_range[0]:.9g} {box.x_range[1]:.9g} "
    scale += f"{box.y_range[0]:.9g} {box.y_range[1]:.9g}"
    head = f'<svg class="chart" viewBox="0 0 {box.width:g} {box.height:g}" role="img" aria-label="{escape(label)}"'
    return Markup(f'{head} data-scale="{scale}"{data}>{inside}</svg>')


def tick_labels(values: list[float]) -> list[str]:
    """The ticks as text, all with the same number of decimals, or as 2e-4 where they are very large or small."""
    step = min((abs(b - a) for a, b in pairwise(values) if a != b), default=max(map(abs, values), default=1.0)) or 1.0
    if max(map(abs, values), default=0.0) >= 1e5 or step < 1e-3:
        return ["0" if not value else "e".join(_mantissa(value)).replace("-", "−") for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return ["0" if not value else f"{value:.{decimals}f}".replace("-", "−") for value in values]


def _mantissa(value: float) -> tuple[str, str]:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}", str(int(exponent))


def _running_mean(value: np.ndarray) -> np.ndarray:
    """Mean over a window of 1/20 of the record, centred, shorter at the ends."""
    half = max(1, len(value) // 40)
    total = np.concatenate([[0.0], value.cumsum()])
    at = np.arange(len(value))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(value))
    return (total[high] - total[low]) / (high - low)


def _thin(step: np.ndarray, value: np.ndarray, buckets: int = 150) -> Curve:
    """At most two points a bucket, its lowest and its highest: spikes survive."""
    if len(value) <= 2 * buckets:
        return step, value
    keep = [0, len(value) - 1]
    for part in np.array_split(np.arange(len(value)), buckets):
        keep += [part[value[part].argmin()], part[value[part].argmax()]]
    at = np.unique(keep)
    return step[at], value[at]
