"""Evaluation of a set too large to hold: a histogram over the scores' bits, with certified bounds on every metric.

The bits of a float32, with the sign handled, ascend with its value; the leading ones are the bin. So bins need no
range and no calibration, are equally fine at every magnitude, and the histograms of two parts of a set simply add.
Inside one bin the order of the scores is unknown, and that is all that is unknown: each metric's smallest and largest
value over every possible order are its bounds. Bins are kept by octave (sign and exponent), each on first touch: 1 MB
at 26 bits, 3 MB where anomalous pixels lie, a few dozen in practice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bikd_fast.metrics import closed_form, ranks
from bikd_fast.metrics.images import read_images
from bikd_fast.metrics.inputs import fit, nan_error, plane_of
from bikd_fast.metrics.ladder import ladder_of, rungs

OCTAVE_BITS = 9  # sign and exponent of a float32
BUFFER = 1 << 22  # pixels sorted at a time

Octaves = dict[int, np.ndarray]  # the bins of each octave met so far, ascending
Bins = tuple[np.ndarray, np.ndarray, np.ndarray]  # normal (int64), anomalous (int64), weight (float64)


class StreamingEvaluation:
    """Collects maps and masks in any number of calls, in memory that does not grow with them.

    >>> stream = StreamingEvaluation()
    >>> for maps, masks in batches:
    ...     stream.add(maps, masks)
    >>> stream.result()["bounds"]["aupro"]
    [0.93210, 0.93211]

    Args:
        bits: leading bits of a score that tell bins apart, 12 to 28. 16-bit maps of their mask's size are exact from
            19 on.
    """

    def __init__(self, bits: int = 26) -> None:
        if not 12 <= bits <= 28:
            raise ValueError(
                f"bits is {bits}: it must lie in 12..28; 26 keeps bounds near 1e-6, each bit more doubles the memory"
            )
        self.bits = bits
        self._bins = 1 << (bits - OCTAVE_BITS)
        self._octaves: tuple[Octaves, Octaves, Octaves] = ({}, {}, {})  # normal, anomalous, weight
        self._buffer = np.empty(BUFFER, np.float32)
        self._used = 0
        self._regions = 0
        self._inexact = False  # whether some bin may hold several scores
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def add(self, maps: Any, masks: Any, scores: Any = None, labels: Any = None) -> None:
        """Take in n more images; arguments and errors as in evaluate(). Only counts and image scores are kept."""
        images = read_images(maps, masks, scores, labels, None, None)
        for i, plane in enumerate(images.maps):  # before anything is counted
            if bool(plane.max() != plane.max()):
                raise nan_error(i)
        stop = np.cumsum(images.regions.positives)
        weight = 1.0 / images.regions.area[images.regions.region]
        for i, (plane, size) in enumerate(zip(images.maps, images.sizes)):
            flat = fit(plane, size).reshape(-1)
            flat = plane_of(flat.cpu()) if isinstance(flat, torch.Tensor) else flat
            scores32 = flat.astype(np.float32, copy=False)
            if not self._inexact:  # asked no more once one map has answered
                low_bits = scores32.view(np.uint32) & np.uint32((1 << (32 - self.bits)) - 1)
                self._inexact = bool(low_bits.any() or (scores32 != flat).any())
            mine = slice(stop[i] - images.regions.positives[i], stop[i])
            offset = images.regions.offset[mine]
            self._fill(scores32)
            if offset.size:
                self._mark(scores32[offset], weight[mine])
        self._regions += images.regions.area.size
        self._scores.append(images.score)
        self._labels.append(images.label)

    def merge(self, other: StreamingEvaluation) -> None:
        """Add what another stream of the same bits has collected (it keeps its own)."""
        if other.bits != self.bits:
            raise ValueError(f"cannot merge streams of {self.bits} and {other.bits} bits")
        other._flush()
        for kind, theirs in enumerate(other._octaves):
            for octave, bins in theirs.items():
                self._bins_of(kind, octave)[:] += bins
        self._regions += other._regions
        self._inexact |= other._inexact
        self._scores += other._scores
        self._labels += other._labels

    def result(self, fpr_limit: float = 0.3, group: Any = None) -> dict[str, Any]:
        """Metrics of everything added so far, on all ranks of the group together.

        Returns:
            the floats of evaluate() (image metrics exact; pixel metrics as if the scores of one bin were equal, NaN
            where undefined), "bounds": {name: [low, high]} for pixel_auroc, pixel_ap, pixel_f1max and aupro, between
            which the exact value lies whatever the scores within a bin, and "about". For 16-bit maps the values are
            exact.
        """
        ranks.together(self._flush, group)
        images = [np.concatenate([np.zeros(0), *part]) for part in (self._scores, self._labels)]
        score, label = (np.concatenate(ranks.gather(part, group)) for part in images)
        picture = ladder_of(score, label)
        image_f1, image_threshold = closed_form.best_f1(picture)
        result: dict[str, Any] = {
            "image_auroc": closed_form.auroc(picture),
            "image_ap": closed_form.average_precision(picture),
            "image_f1max": image_f1,
            "image_f1max_threshold": image_threshold,
        }
        totals = [self._regions, self._inexact]
        totals += [sum(int(bins.sum()) for bins in self._octaves[kind].values()) for kind in (0, 1)]
        regions, inexact, negatives, positives = ranks.total(np.array(totals, np.int64), group).tolist()
        names = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
        if positives and negatives:
            values, threshold = self._sweep(negatives, positives, regions, fpr_limit, group)
            if not inexact:
                values = [(value, value, value) for _, value, _ in values]
        else:
            values, threshold = [(closed_form.NAN,) * 3] * 4, closed_form.NAN
        result |= {name: value for name, (_, value, _) in zip(names, values)}
        result["pixel_f1max_threshold"] = threshold
        result["bounds"] = {name: [low, high] for name, (low, _, high) in zip(names, values)}
        result["about"] = {
            "fpr_limit": fpr_limit,
            "images": int(label.size),
            "anomalous_images": int(np.count_nonzero(label)),
            "pixels": negatives + positives,
            "anomalous_pixels": positives,
            "regions": regions,
            "bits": self.bits,
            "exact": not inexact,
        }
        return result

    def _fill(self, flat: np.ndarray) -> None:
        start = 0
        while start < flat.size:
            take = min(flat.size - start, BUFFER - self._used)
            self._buffer[self._used : self._used + take] = flat[start : start + take]
            self._used += take
            start += take
            if self._used == BUFFER:
                self._flush()

    def _flush(self) -> None:
        """Sort the buffered pixels into the histogram of normal ones (_mark has taken the anomalous ones out of it)."""
        scores = self._buffer[: self._used]
        scores.sort()
        index, counts = rungs(bin_of(scores, self.bits))
        for octave, part in self._by_octave(index):
            self._bins_of(0, octave)[index[part] % self._bins] += counts[part]
        self._used = 0

    def _mark(self, scores: np.ndarray, weight: np.ndarray) -> None:
        """Count anomalous pixels, with the weight 1 / area of their region, and take them from the normal ones."""
        order = np.argsort(scores)
        index = bin_of(scores[order], self.bits)
        weight = weight[order]
        for octave, part in self._by_octave(index):
            normal, anomalous, weights = (self._bins_of(kind, octave) for kind in range(3))
            counts_at, counts = rungs(index[part] % self._bins)
            normal[counts_at] -= counts
            anomalous[counts_at] += counts
            np.add.at(weights, index[part] % self._bins, weight[part])

    def _by_octave(self, index: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Octaves present in ascending bin numbers, with the stretch each occupies."""
        octaves, counts = rungs(index // self._bins)
        stop = np.cumsum(counts)
        for octave, first, last in zip(octaves.tolist(), (stop - counts).tolist(), stop.tolist()):
            yield octave, slice(first, last)

    def _bins_of(self, kind: int, octave: int) -> np.ndarray:
        if octave not in self._octaves[kind]:
            self._octaves[kind][octave] = np.zeros(self._bins, np.float64 if kind == 2 else np.int64)
        return self._octaves[kind][octave]

    def _descending(self, group: Any) -> Iterator[tuple[int, Bins]]:
        """Octaves of all ranks from the highest down, summed over the ranks, bins from the highest down."""
        present = np.zeros(1 << OCTAVE_BITS, np.int64)
        present[[octave for kind in self._octaves for octave in kind]] = 1
        none, no_weight = np.zeros(self._bins, np.int64), np.zeros(self._bins)
        for octave in np.flatnonzero(ranks.total(present, group))[::-1].tolist():
            normal, anomalous = (ranks.total(self._octaves[kind].get(octave, none), group) for kind in (0, 1))
            weights = ranks.gather(
                self._octaves[2].get(octave, no_weight), group
            )  # summed in rank order: same everywhere
            yield octave, (normal[::-1], anomalous[::-1], sum(weights[1:], weights[0])[::-1])

    def _sweep(
        self, negatives: int, positives: int, regions: int, fpr_limit: float, group: Any
    ) -> tuple[list[tuple[float, float, float]], float]:
        """(low, value, high) of AUROC, AP, F1-max and AUPRO from the highest bin down, and the threshold of F1-max."""
        limit = fpr_limit * negatives
        wins = [0, 0, 0]  # twice the pairs in the right order: at least, bins as ties, at most
        precision = np.zeros(3)
        f1, area = np.zeros(3), np.zeros(3)
        threshold = closed_form.NAN
        tp = fp = 0
        height = 0.0
        for octave, (normal, anomalous, weight) in self._descending(group):
            used = np.flatnonzero((normal != 0) | (anomalous != 0))
            n, p, w = normal[used], anomalous[used], weight[used]
            tp1, fp1, w1 = tp + np.cumsum(p), fp + np.cumsum(n), height + np.cumsum(w)
            tp0, fp0, w0 = tp1 - p, fp1 - n, w1 - w
            below = negatives - fp1
            wins = [a + closed_form.exact_dot(p, 2 * below + k * n) for k, a in enumerate(wins)]
            hit = p > 0
            with np.errstate(invalid="ignore", divide="ignore"):  # bins without anomalous pixels are not used
                # All normal ones of a bin before its anomalous ones: the k-th of these has precision
                # (tp0+k)/(tp0+k+fp1), whose sum is bounded by the first term times p and by the integral of this
                # concave function from 0.
                first = p * (tp0 + 1) / (tp0 + 1 + fp1)
                integral = np.where(fp1 > 0, p - fp1 * np.log1p(p / (tp0 + fp1)), p)
                low = np.fmax(first, integral)
                middle, high = p * tp1 / (tp1 + fp1), p * tp1 / (tp1 + fp0)
            precision += [part[hit].sum() for part in (low, middle, high)]
            score = 2 * tp1 / (tp1 + fp1 + positives)
            best = score.size - 1 - int(np.argmax(score[::-1]))
            if score[best] >= f1[1]:
                threshold = lowest_of((octave + 1) * self._bins - 1 - int(used[best]), self.bits)
            f1 = np.maximum(f1, [score[best], score[best], (2 * tp1 / (tp1 + fp0 + positives))[hit].max(initial=0.0)])
            wide = np.clip(limit - fp0, 0, n)
            area += [np.sum(wide * w0), np.sum(wide * (w0 + 0.5 * w * wide / np.maximum(n, 1))), np.sum(wide * w1)]
            tp, fp, height = int(tp1[-1]), int(fp1[-1]), float(w1[-1])
        auroc = [x / (2 * positives * negatives) for x in wins]
        rows = (auroc, precision / positives, f1, area / (regions * limit))
        return [(float(low), float(value), float(high)) for low, value, high in rows], threshold


def bin_of(scores: np.ndarray, bits: int) -> np.ndarray:
    """uint32 bin of float32 scores: leading bits of a number ascending with the score; -0.0 falls where 0.0 does."""
    raw = (scores + np.float32(0)).view(np.uint32)
    flip = (raw.view(np.int32) >> 31).view(np.uint32)  # all ones for a negative number
    flip |= np.uint32(0x80000000)
    raw ^= flip
    raw >>= np.uint32(32 - bits)
    return raw


def lowest_of(index: int, bits: int) -> float:
    """The lowest float32 in a bin: as a threshold it takes in the whole bin."""
    key = index << (32 - bits)
    raw = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    lowest = float(np.uint32(raw).view(np.float32))
    return -math.inf if math.isnan(lowest) else lowest  # below -inf the bits spell NaN
