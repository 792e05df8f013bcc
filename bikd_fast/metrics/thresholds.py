"""Thresholds without the test set, each with what it promises and how surely. Scores are never changed.

A picture is called anomalous when its score >= the threshold. Promises hold for pictures drawn like those the
threshold was chosen from (exchangeable with them) and never trained on: a threshold from training pictures promises
nothing. The same functions choose a threshold for pixels: given each normal picture's highest pixel, the false-alarm
rate is that of pictures with any pixel marked.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from bikd_fast.metrics.closed_form import best_f1
from bikd_fast.metrics.ladder import ladder_of


@dataclass(frozen=True)
class Threshold:
    """A threshold and its papers; to_dict() goes into the run's metadata.

    Attributes:
        value: call a score >= value anomalous. A float32 value, so that saving and exporting do not move it.
        method: "false_alarm_rate", "recall" or "f1".
        source: the pictures it was chosen from, such as "held-out normal".
        target: the rate asked for (None for "f1").
        bound: what is promised on average over new pictures: false alarms at most, or recall at least, this. None for
            "f1".
        bound_with_confidence: the same for this very threshold, not on average, with probability `confidence`.
        confidence: of bound_with_confidence. None for "f1", like the bounds.
        observed: false-alarm rate, recall or F1 on the pictures it was chosen from.
        n: how many those were.
        met: whether bound reaches target. False: too few pictures; value is then the strictest they support.
        promise: the above in words, for people.
    """

    value: float
    method: str
    source: str
    target: float | None
    bound: float | None
    bound_with_confidence: float | None
    confidence: float | None
    observed: float
    n: int
    met: bool
    promise: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def threshold_at_false_alarm_rate(
    normal_scores: Any, rate: float = 0.01, *, confidence: float = 0.95, source: str = "held-out normal"
) -> Threshold:
    """Lowest threshold that a new normal picture reaches with probability at most `rate` (split conformal prediction).

    With the n scores in order, a new exchangeable one exceeds the k-th with probability at most (n + 1 - k) / (n +
    1), whatever their distribution (Vovk et al., 2005; Lei et al., JASA 2018); the rate of one fixed threshold is at
    most Beta(n + 1 - k, k) distributed (Vovk, ACML 2012), whence the bound with confidence. Fewer than 1 / rate - 1
    pictures cannot support the rate: then the threshold lies just above the highest of them, and met is False.

    Args:
        normal_scores: (n,) scores of normal pictures that were not trained on.
        rate: wanted false-alarm rate, in (0, 1).
    """
    scores = _checked(normal_scores, "normal_scores", rate, "rate", confidence)
    n = scores.size
    exceed = max(1, min(n, math.floor((n + 1) * rate + 1e-9)))  # n + 1 - k
    value = _above(float(scores[n - exceed]))
    bound = exceed / (n + 1)
    met = bound <= rate + 1e-12
    sure = float(betaincinv(exceed, n + 1 - exceed, confidence))
    promise = (
        f"From {n} {source} pictures: a new normal picture is called anomalous with probability at most {bound:.2%}; "
        f"with {confidence:.0%} confidence this threshold's own false-alarm rate is at most {sure:.2%}."
    )
    if not met:
        needed = math.ceil(1 / rate - 1 - 1e-9)
        promise = (
            f"{n} {source} pictures cannot support a false-alarm rate of {rate:.2%} ({needed} are needed): the "
            f"threshold lies just above the highest of their scores. {promise}"
        )
    observed = float(np.mean(scores >= value))
    return Threshold(value, "false_alarm_rate", source, rate, bound, sure, confidence, observed, n, met, promise)


def threshold_at_recall(
    defect_scores: Any, recall: float = 0.95, *, confidence: float = 0.95, source: str = "simulated defect"
) -> Threshold:
    """Highest threshold that a new defect like these reaches with probability at least `recall` (conformal, as above).

    A new exchangeable score lies below the j-th lowest of n with probability at most j / (n + 1). Fewer than
    1 / (1 - recall) - 1 defects cannot support the recall: then the threshold is the lowest of their scores, and met
    is False.

    Args:
        defect_scores: (n,) scores of simulated or labelled defects; say which in source, the promise reaches no
            further.
        recall: wanted share of defects found, in (0, 1).
    """
    scores = _checked(defect_scores, "defect_scores", recall, "recall", confidence)
    n = scores.size
    missed = max(1, min(n, math.floor((n + 1) * (1.0 - recall) + 1e-9)))
    value = _not_above(float(scores[missed - 1]))
    bound = 1.0 - missed / (n + 1)
    met = bound >= recall - 1e-12
    sure = 1.0 - float(betaincinv(missed, n + 1 - missed, confidence))
    promise = (
        f"From {n} {source} pictures: a new defect like these is found with probability at least {bound:.2%}; "
        f"with {confidence:.0%} confidence this threshold's own recall is at least {sure:.2%}. "
        "It promises nothing about other defects nor about false alarms."
    )
    if not met:
        needed = math.ceil(1 / (1.0 - recall) - 1 - 1e-9)
        promise = (
            f"{n} {source} pictures cannot support a recall of {recall:.2%} ({needed} are needed): the threshold is "
            f"the lowest of their scores. {promise}"
        )
    observed = float(np.mean(scores >= value))
    return Threshold(value, "recall", source, recall, bound, sure, confidence, observed, n, met, promise)


def threshold_at_best_f1(scores: Any, labels: Any, *, source: str = "labelled") -> Threshold:
    """Threshold of the largest F1 on labelled pictures, the lowest of equals; it promises nothing for others.

    Args:
        scores: (n,). labels: (n,), 0 normal, 1 anomalous; both must occur.
    """
    array = _finite(scores, "scores")
    truth = np.asarray(labels)
    if truth.shape != array.shape:
        raise ValueError(f"{truth.size} labels for {array.size} scores: give one for each")
    if not (truth != 0).any() or (truth != 0).all():
        raise ValueError(
            "the best F1 needs normal and anomalous pictures; with one class only, choose by false-alarm rate or recall"
        )
    f1, value = best_f1(ladder_of(array, truth))
    promise = (
        f"F1 is largest, {f1:.4f}, on these {array.size} {source} pictures ({int(np.count_nonzero(truth))} anomalous); "
        "chosen on them, it flatters: measured on others, F1 will be lower."
    )
    return Threshold(_not_above(value), "f1", source, None, None, None, None, f1, int(array.size), True, promise)


def _checked(scores: Any, what: str, rate: float, name: str, confidence: float) -> np.ndarray:
    for value, label in ((rate, name), (confidence, "confidence")):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{label} is {value}: it must lie between 0 and 1, both excluded")
    return np.sort(_finite(scores, what))


def _finite(scores: Any, what: str) -> np.ndarray:
    array = np.asarray(scores, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{what} has shape {array.shape}: a threshold needs at least one score, as a list of numbers")
    if not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{what}[{bad}] is {array[bad]}: a threshold needs finite scores")
    return array


def _above(score: float) -> float:
    """Smallest float32 above a score and above that score in single precision."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _not_above(score: float) -> float:
    """Largest float32 not above a score."""
    near = np.float32(score)
    return float(near if float(near) <= score else np.nextafter(near, np.float32(-np.inf)))
