"""Other packages' pixel metrics, for those that are installed; their values are recorded as they are, right or wrong.

torchmetrics passes scores outside [0, 1] through a sigmoid, which makes equal what differs above 16.6; ADEval counts into 1000
linear bins. Neither is a dependency: `pip install torchmetrics` and `pip install adeval opencv-python-headless` make them rows.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

Run = Callable[[np.ndarray, np.ndarray], dict[str, Any]]


def torchmetrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    scores, truth = torch.from_numpy(maps.ravel()), torch.from_numpy(masks.ravel())
    return {"pixel_auroc": float(binary_auroc(scores, truth)), "pixel_ap": float(binary_average_precision(scores, truth))}


def adeval(maps: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    from adeval import auroc_aupr_aupro

    auroc, aupr, aupro = auroc_aupr_aupro(maps, masks)
    return {"pixel_auroc": auroc, "pixel_ap": aupr, "aupro": aupro}


PEERS: dict[str, tuple[str, Run]] = {"torchmetrics": ("AUROC+AP", torchmetrics), "ADEval": ("AUROC+AP+AUPRO", adeval)}


def installed() -> dict[str, tuple[str, Run]]:
    """"NAME VERSION" -> (what it gives, its call), of the peers that are installed and work; says which are not."""
    found = {}
    rng = np.random.default_rng(0)
    for name, (gives, run) in PEERS.items():
        try:
            full = f"{name} {version(name)}"
        except PackageNotFoundError:
            print(f"{name}: not installed, not run")
            continue
        try:
            run(rng.random((4, 32, 32), np.float32), (rng.random((4, 32, 32)) < 0.1).astype(np.uint8))
        except Exception as error:
            print(f"{full}: fails here ({type(error).__name__}: {error}), not run")
            continue
        found[full] = (gives, run)
    return found
