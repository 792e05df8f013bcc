"""evaluate(): every metric of a set of anomaly maps, exact, with the shares of kinds, images and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bikd_fast.metrics import closed_form, ranks
from bikd_fast.metrics import curves as curve
from bikd_fast.metrics.detail import by_image, by_kind, by_region, gather_table, mean_or_nan
from bikd_fast.metrics.images import read_images
from bikd_fast.metrics.ladder import ladder_of
from bikd_fast.metrics.pixels import measure, rung_weights


def evaluate(
    maps: Any,
    masks: Any,
    scores: Any = None,
    labels: Any = None,
    *,
    kinds: Sequence[str] | None = None,
    fpr_limit: float = 0.3,
    aupimo: bool = False,
    curves: int = 0,
    indices: Sequence[int] | None = None,
    memory_mb: float = 128.0,
    threads: int | None = None,
    group: Any = None,
) -> dict[str, Any]:
    """Image, pixel and region metrics of N anomaly maps, exact, by the definitions of docs/metrics.md.

    Args:
        maps: (N, H, W) stack or list of (H, W) floating NumPy arrays or tensors, higher = more anomalous; sizes may
            differ. Infinities are ordinary values, NaN is an error. Tensors on a GPU stay there. A map whose size
            differs from its mask's is resized to it bilinearly; masks are never resized.
        masks: as maps, bool or integer, non-zero = anomalous; all zeros for a normal image.
        scores: (N,) image scores; default: each map's maximum.
        labels: (N,) 0 normal, 1 anomalous; default: whether the mask has an anomalous pixel. An image labelled 1
            whose mask is empty counts as anomalous among the images, its pixels as normal.
        kinds: (N,) defect kind of each image; default "good" for label 0 and "defect" for label 1.
        fpr_limit: false-positive rate up to which AUPRO integrates, in (0, 1].
        aupimo: also give AUPIMO (needs normal images), at the top and per image.
        curves: number of points of the ROC, PR and PRO curves to include under "curves"; 0: none.
        indices: (N,) place of each image in the whole set, each once; default: the order given (ranks one after the
            other).
        memory_mb: working memory for sorting pixels, all threads together.
        threads: default: the cores this process may use.
        group: torch.distributed process group whose ranks each bring their own share of the images. Maps stay where
            they are; every rank returns the same dict, bit for bit what one process with all images would return.

    Returns:
        dict of plain Python values: the floats image_auroc, image_ap, image_f1max, image_f1max_threshold, pixel_auroc,
        pixel_ap, pixel_f1max, pixel_f1max_threshold, aupro (and aupimo), NaN where undefined (no anomalous or no normal
        ones); "about": counts and settings; "kinds": {kind: {...}}; "images" and "regions": lists of dicts; "curves" if
        asked. metrics.to_json writes it with NaN as null.

    Raises:
        ValueError: shapes, lengths or labels that do not fit, or NaN; the message names the image.
        TypeError: maps that are not floating, masks that are.
    """
    if not 0.0 < fpr_limit <= 1.0:
        raise ValueError(f"fpr_limit is {fpr_limit}: it must lie in (0, 1]; the usual value is 0.3")
    images = ranks.together(lambda: read_images(maps, masks, scores, labels, kinds, indices), group)
    pixels = measure(
        images.maps,
        images.sizes,
        images.regions,
        fpr_limit=fpr_limit,
        normal=images.label == 0 if aupimo else None,
        memory_mb=memory_mb,
        threads=threads,
        group=group,
    )
    table = gather_table(images, pixels, group)
    ladder = pixels.ladder
    picture = ladder_of(table.score, table.label)
    image_f1, image_threshold = closed_form.best_f1(picture)
    pixel_f1, pixel_threshold = closed_form.best_f1(ladder)
    result: dict[str, Any] = {
        "image_auroc": closed_form.auroc(picture),
        "image_ap": closed_form.average_precision(picture),
        "image_f1max": image_f1,
        "image_f1max_threshold": image_threshold,
        "pixel_auroc": closed_form.auroc(ladder),
        "pixel_ap": closed_form.average_precision(ladder),
        "pixel_f1max": pixel_f1,
        "pixel_f1max_threshold": pixel_threshold,
        "aupro": mean_or_nan(table.overlap),
    }
    if table.pimo is not None:
        result["aupimo"] = mean_or_nan(table.pimo[table.positives > 0])
    result["about"] = {
        "fpr_limit": fpr_limit,
        "images": int(table.label.size),
        "anomalous_images": int(np.count_nonzero(table.label)),
        "pixels": ladder.negatives + int(ladder.positives.sum()),
        "anomalous_pixels": int(ladder.positives.sum()),
        "regions": int(table.overlap.size),
    }
    result["kinds"] = by_kind(table, ladder.negatives)
    result["images"] = by_image(table, ladder.negatives)
    result["regions"] = by_region(table)
    if curves:
        result["curves"] = {
            "image_roc": curve.roc(picture, curves),
            "image_pr": curve.precision_recall(picture, curves),
            "pixel_roc": curve.roc(ladder, curves),
            "pixel_pr": curve.precision_recall(ladder, curves),
            "pro": curve.pro(ladder, rung_weights(pixels, images.regions, group), fpr_limit, curves),
        }
    return result
