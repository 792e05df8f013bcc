"""What a set's metrics consist of: the share of every region, image and defect kind, in the order of the whole set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bikd_fast.metrics import closed_form, ranks
from bikd_fast.metrics.images import Images
from bikd_fast.metrics.ladder import ladder_of
from bikd_fast.metrics.pixels import Pixels


@dataclass(frozen=True)
class Table:
    """Columns over all N images and R regions of all ranks, by image. region_image: int64 (R,), row of the image."""

    index: np.ndarray
    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    positives: np.ndarray
    wins: np.ndarray
    pimo: np.ndarray | None
    region_image: np.ndarray
    area: np.ndarray
    box: np.ndarray
    overlap: np.ndarray
    peak: np.ndarray


def gather_table(images: Images, pixels: Pixels, group: Any) -> Table:
    """Collect the columns of all ranks (group=None: of this one) and order them by image index."""

    def everywhere(column: np.ndarray) -> np.ndarray:
        return np.concatenate(ranks.gather(column, group))

    regions = images.regions
    counts = [part.size for part in ranks.gather(images.label, group)]
    first = sum(counts[: ranks.rank_of(group)])  # images of the ranks before this one
    mine = np.arange(first, first + images.label.size) if images.index is None else images.index
    index = everywhere(mine)
    if np.unique(index).size != index.size:
        twice = int(np.sort(index)[np.flatnonzero(np.diff(np.sort(index)) == 0)[0]])
        raise ValueError(
            f"image index {twice} was given twice: a sampler that pads its ranks repeats images; "
            "evaluate each once (drop the padding), or the metrics count it double"
        )
    order = np.argsort(index)
    region_index = everywhere(mine[regions.image])
    region_order = np.argsort(region_index, kind="stable")
    kind = np.array([k for part in ranks.gather_strings(images.kind, group) for k in part], object)
    return Table(
        index=index[order],
        label=everywhere(images.label)[order],
        score=everywhere(images.score)[order],
        kind=kind[order],
        positives=everywhere(regions.positives)[order],
        wins=everywhere(pixels.wins)[order],
        pimo=None if pixels.pimo is None else everywhere(pixels.pimo)[order],
        region_image=np.searchsorted(index[order], region_index[region_order]),
        area=everywhere(regions.area)[region_order],
        box=everywhere(regions.box)[region_order],
        overlap=everywhere(pixels.overlap)[region_order],
        peak=everywhere(pixels.peak)[region_order],
    )


def by_kind(table: Table, negatives: int) -> dict[str, dict[str, float | int]]:
    """Of every kind with an anomalous image: counts, image metrics against all normal images, pixel metrics."""
    out: dict[str, dict[str, float | int]] = {}
    normal = table.label == 0
    for kind in sorted(set(table.kind[~normal].tolist())):
        mine = ~normal & (table.kind == kind)
        picture = ladder_of(table.score[mine | normal], table.label[mine | normal])
        overlap = table.overlap[mine[table.region_image]]
        out[kind] = {
            "count": int(np.count_nonzero(mine)),
            "regions": int(overlap.size),
            "image_auroc": closed_form.auroc(picture),
            "image_ap": closed_form.average_precision(picture),
            "pixel_auroc": _share(int(table.wins[mine].sum()), int(table.positives[mine].sum()), negatives),
            "aupro": mean_or_nan(overlap),
        }
        if table.pimo is not None:
            out[kind]["aupimo"] = mean_or_nan(table.pimo[mine & (table.positives > 0)])
    return out


def by_image(table: Table, negatives: int) -> list[dict[str, Any]]:
    """One dict an image; pixel_auroc and aupro of its own pixels and regions against the whole set's normal pixels."""
    edges = np.searchsorted(table.region_image, np.arange(table.label.size + 1))
    rows = []
    for i in range(table.label.size):
        row = {
            "index": int(table.index[i]),
            "kind": table.kind[i],
            "label": int(table.label[i]),
            "score": float(table.score[i]),
            "anomalous_pixels": int(table.positives[i]),
            "regions": int(edges[i + 1] - edges[i]),
            "pixel_auroc": _share(int(table.wins[i]), int(table.positives[i]), negatives),
            "aupro": mean_or_nan(table.overlap[edges[i] : edges[i + 1]]),
        }
        if table.pimo is not None:
            row["aupimo"] = float(table.pimo[i])
        rows.append(row)
    return rows


def by_region(table: Table) -> list[dict[str, Any]]:
    """One dict a region: its image, area, box (top, left, bottom, right; pixels), share of AUPRO, highest score."""
    return [
        {
            "image": int(table.index[table.region_image[r]]),
            "area": int(table.area[r]),
            "box": [int(x) for x in table.box[r]],
            "aupro": float(table.overlap[r]),
            "peak": float(table.peak[r]),
        }
        for r in range(table.area.size)
    ]


def mean_or_nan(values: np.ndarray) -> float:
    """Mean of float64 values, NaN if there are none; summed in one order, the same bits on any number of ranks."""
    return float(np.sum(values) / values.size) if values.size else closed_form.NAN


def _share(wins: int, positives: int, negatives: int) -> float:
    return wins / (2 * positives * negatives) if positives and negatives else closed_form.NAN
