"""Right or wrong, picture by picture and kind by kind, at the threshold that the run recorded."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bikd_fast.report.curves import area, image_curves
from bikd_fast.report.run_folder import Predictions
from bikd_fast.report.table import METRICS, number

MISSED, FALSE_ALARM, CORRECT, UNJUDGED = "missed", "false alarm", "correct", "not judged"


def outcomes(found: Predictions) -> list[str]:
    """missed, false alarm or correct for every picture; "not judged" without a threshold or with a score of NaN."""
    alarm = found.score >= np.float32(found.threshold)
    names = np.where(found.label, np.where(alarm, CORRECT, MISSED), np.where(alarm, FALSE_ALARM, CORRECT))
    unknown = np.isnan(found.score) | np.isnan(found.threshold)
    return [str(name) for name in np.where(unknown, UNJUDGED, names)]


def errors(found: Predictions) -> np.ndarray:
    """float64 (N,): how wrong each score is; above 0 is a mistake, larger is worse.

    With a threshold: the score's distance from it, towards the wrong side, in standard deviations of the normal scores
    (so that categories compare). Without one: the share of the other class that the picture ranks on the wrong side
    of, less one half. A score of NaN counts as infinitely wrong.
    """
    score = found.score.astype(float)
    sign = np.where(found.label, -1.0, 1.0)
    if np.isfinite(found.threshold):
        finite = score[np.isfinite(score) & ~found.label]
        spread = float(finite.std()) if len(finite) > 1 else 0.0
        error = sign * (score - float(np.float32(found.threshold))) / (spread or 1.0)
    else:
        other = {flag: np.sort(score[found.label != flag]) for flag in (False, True)}
        share = np.empty(len(score))
        for at, (value, flag) in enumerate(zip(score, found.label)):
            rank = np.searchsorted(other[bool(flag)], value, "left" if flag else "right") / max(
                1, len(other[bool(flag)])
            )
            share[at] = 1 - rank if flag else rank
        error = share - 0.5
    return np.where(np.isnan(score), np.inf, error)


@dataclass(frozen=True)
class KindRow:
    kind: str
    defect: bool
    pictures: int
    alarms: int | None  # pictures at or above the threshold, None without one
    auroc: float  # of this kind against all normal pictures, NaN where not defined
    median: float  # of its scores
    recorded: dict[str, float]  # what metrics.json holds for this kind


def kind_rows(found: Predictions, metrics: dict[str, Any]) -> list[KindRow]:
    """The kinds of a category, normal pictures first, then by how many were caught, fewest first."""
    recorded: dict[str, Any] = next(
        (metrics[key] for key in ("kinds", "per_kind") if isinstance(metrics.get(key), dict)), {}
    )
    rows = []
    kinds = np.array(found.kind)
    for kind in dict.fromkeys(found.kind):
        for defect in (False, True):
            chosen = (kinds == kind) & (found.label == defect)
            if not chosen.any():
                continue
            alarms = int((found.score[chosen] >= np.float32(found.threshold)).sum())
            pair = chosen | ~found.label
            curve = image_curves(found.score[pair], found.label[pair]).get("roc") if defect else None
            entry = recorded.get(kind)
            values = {key: number(entry[key]) for key in METRICS if key in entry} if isinstance(entry, dict) else {}
            row = KindRow(
                kind,
                defect,
                int(chosen.sum()),
                None if np.isnan(found.threshold) else alarms,
                float("nan") if curve is None else area(curve),
                float(np.median(found.score[chosen])),
                values,
            )
            rows.append(row)
    return sorted(rows, key=lambda row: (row.defect, (row.alarms or 0) / row.pictures if row.defect else 0, row.median))


def undefined_reason(key: str, entry: dict[str, Any], found: Predictions | None) -> str:
    """Why a metric of a category has no value, as far as the run tells."""
    for name in ("undefined", "reasons", "not_defined"):
        reason = entry.get(name)
        if isinstance(reason, dict) and reason.get(key):
            return str(reason[key])
    if key not in entry:
        return "this run did not compute it"
    if found is None:
        return "the run records no reason, and there are no predictions to look at"
    if not found.label.any():
        return "no test picture has a defect"
    if found.label.all() and key.startswith("image"):
        return "no test picture is normal"
    without = sum(not mask for mask, defect in zip(found.mask_path, found.label) if defect)
    if without and not key.startswith("image"):
        return f"{without} of {int(found.label.sum())} defective test pictures have no ground-truth mask"
    return "the run records no reason"
