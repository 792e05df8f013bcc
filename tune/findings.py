"""What was found, from what was recorded: the best trial, the gain over the default, what mattered, what it cost."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, t

from bikd_fast.config import RunConfig
from bikd_fast.search.settings import apply
from tune.records import Row, best_of, best_values, gain_rows, read_rows
from tune.state import GAIN, RESULTS, kept


@dataclass(frozen=True)
class Gain:
    """Best minus default, trained with the same new seeds.

    Attributes:
        name: of the figure.
        differences: one a seed.
        low, high: 95 % interval of their mean (Student's t); NaN with one seed.
    """

    name: str
    default: list[float]
    best: list[float]
    low: float
    high: float

    @property
    def differences(self) -> list[float]:
        return [b - d for b, d in zip(self.best, self.default)]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def verdict(self) -> str:
        """In words; an interval that holds 0 is no gain."""
        if len(self.differences) < 2:
            return "one seed: no uncertainty, no verdict"
        if self.low > 0:
            return "a gain"
        return "a loss" if self.high < 0 else "no gain that could be told from chance"

    @property
    def ahead(self) -> bool | None:
        """Whether the best is ahead by more than one standard error: the known choice stands unless another is better by that
        (the rule of Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3). None with one seed.
        """
        if len(self.differences) < 2:
            return None
        return self.mean > statistics.stdev(self.differences) / math.sqrt(len(self.differences))


@dataclass(frozen=True)
class Found:
    """A search as recorded: its state (search.json), trials, best trial, gains.

    Attributes:
        candidate: settings of the best trial.
        config: what to train by: the candidate, or the job's own settings where the candidate was trained with new seeds and is not
            ahead of them.
        kept: whether it is the latter.
    """

    state: dict[str, Any]
    rows: list[Row]
    best: Row | None
    candidate: RunConfig | None
    gains: list[Gain]
    own: RunConfig

    @property
    def default(self) -> Row | None:
        """The trial of the job's own settings; a population may have changed them on the way."""
        own = (row for row in self.rows if row.values == self.state.get("default") and not row.result.get("mixed"))
        return next(own, None)

    @property
    def kept(self) -> bool:
        return bool(self.gains) and self.gains[0].ahead is False

    @property
    def holds(self) -> str:
        """What best.yaml holds, in words."""
        if self.kept:
            return "the job's own settings: with new seeds best_trial.yaml is not ahead of them by a standard error"
        if not self.gains or self.gains[0].ahead is None:
            return "the settings of the best trial, which was not compared with the job's own on several new seeds"
        return "the settings of the best trial, which with new seeds is ahead of the job's own by more than a standard error"

    @property
    def config(self) -> RunConfig | None:
        return self.own if self.candidate is not None and self.kept else self.candidate


def read(folder: Path) -> Found:
    """A search folder."""
    state = kept(folder)
    rows = read_rows(folder / RESULTS)
    rows.sort(key=lambda row: row.values != state.get("default"))  # the job's own settings first; they may have begun second
    for number, row in enumerate(rows):
        row.number = number
    best = best_of(rows)
    candidate = apply(state["base"], best_values(state["base"], best)) if best is not None else None
    measured = gain_rows(folder / GAIN, best) if best is not None else []
    return Found(state, rows, best, candidate, gains(measured), apply(state["base"], {}))


def gains(rows: list[Row]) -> list[Gain]:
    """Of the objective, and of the test metrics where the data set has labelled test pictures.

    A best that fails with a new seed counts as the worst there, as a failing trial does.
    """
    there: dict[str, dict[int, dict[str, float]]] = {"default": {}, "best": {}}
    for row in rows:
        if row.status == "finished":
            there[row.values["_who"]][row.values["seed"]] = _figures(row.result)
        elif row.status == "failed" and row.values["_who"] == "best":
            there["best"][row.values["seed"]] = {"objective": 0.0}
    seeds = sorted(there["default"].keys() & there["best"].keys())
    names = (
        [name for name in there["default"][seeds[0]] if all(name in there[w][s] for w in there for s in seeds)] if seeds else []
    )
    return [gain(name, [there["default"][s][name] for s in seeds], [there["best"][s][name] for s in seeds]) for name in names]


def gain(name: str, default: list[float], best: list[float]) -> Gain:
    """Pairs of the same seed."""
    differences = [b - d for b, d in zip(best, default)]
    if len(differences) < 2:
        return Gain(name, default, best, math.nan, math.nan)
    middle = statistics.fmean(differences)
    reach = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return Gain(name, default, best, middle - reach, middle + reach)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    figures = {"objective": result["score"]}
    tests = list(result.get("test", {}).values())
    for key in ("image_auroc", "pixel_auroc", "aupro"):
        if tests and all(math.isfinite(found.get(key, math.nan)) for found in tests):  # without good ones no AUROC is known
            figures[f"test {key}"] = statistics.fmean(found[key] for found in tests)
    return figures


def importance(rows: list[Row]) -> tuple[list[tuple[str, float]], float]:
    """How much each parameter has to do with the objective at the first rung, which all trials reached: |rank correlation|.

    Trials whose settings were changed on the way are left out: the score at the first rung is of others.

    Returns:
        (parameter, value in [0, 1]), greatest first; and what chance alone exceeds in one case out of twenty with so many trials
        (about 1.96 / sqrt(n - 1)). Both mean little with few trials.
    """
    judged = [row for row in rows if row.history and row.history[0][0] == 1 and not row.result.get("mixed")]
    if len(judged) < 4:
        return [], math.nan
    scores = rankdata([row.history[0][1] for row in judged])
    found = []
    for key in judged[0].values:
        values = [row.values.get(key) for row in judged]
        if all(isinstance(v, int | float) for v in values) and len(set(values)) > 1:
            found.append((key, abs(float(np.corrcoef(rankdata(np.array(values, float)), scores)[0, 1]))))
    return sorted(found, key=lambda pair: -pair[1]), min(1.0, 1.96 / math.sqrt(len(judged) - 1))


def overhead(state: dict[str, Any], rows: list[Row]) -> float:
    """Share of the search's time (wall time by trials at once) that was not spent in training steps; NaN for a search that was
    taken up again, whose time before nobody knows if it was killed."""
    if state.get("taken_up"):
        return math.nan
    whole = state.get("seconds", 0.0) * state.get("slots", 1)
    return 1 - sum(row.result.get("training_seconds", 0.0) for row in rows) / whole if whole else math.nan


def front(rows: list[Row]) -> set[str]:
    """Trials that no other beats in accuracy and latency both, among those that got furthest."""
    top = max((row.rung for row in rows), default=0)
    good = [r for r in rows if r.rung == top and r.status == "finished" and r.result.get("latency") is not None]

    def beaten(row: Row) -> bool:
        own = (row.score, -row.result["latency"])
        return any(o != own and o[0] >= own[0] and o[1] >= own[1] for o in ((r.score, -r.result["latency"]) for r in good))

    return {row.trial for row in good if not beaten(row)}
