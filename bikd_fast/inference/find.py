"""Which detector of a run: a run may hold one, or one for each category."""

from __future__ import annotations

from pathlib import Path

import torch

from bikd_fast.models.detector import FILE_NAME, Detector, DetectorError


def find_detector(run: Path, category: str | None = None) -> Path:
    """The folder (or file) of the detector that looks at ``category``; None where the run holds only one detector.

    Raises:
        DetectorError: no detector, several to choose from, or none of that category; the message says which there are.
    """
    if run.is_file():
        return run
    names = sorted(p.parent.name for p in run.glob(f"*/{FILE_NAME}")) if run.is_dir() else []
    if category is not None and category in names:
        return run / category
    if (run / FILE_NAME).is_file():  # one detector, of one category or shared by several; load() checks the name
        return run
    if not names:
        raise DetectorError(f"{run}: no {FILE_NAME} there. Give the folder of a finished run.")
    if category is not None:
        raise DetectorError(f"{run}: no detector of category {category!r}; there are: {', '.join(names)}.")
    if len(names) == 1:
        return run / names[0]
    raise DetectorError(f"{run} holds detectors of {len(names)} categories; choose one with --category: {', '.join(names)}.")


def load_detector(run: Path, category: str | None = None, device: str | None = None) -> Detector:
    """Detector of ``category``, on ``device`` (default: the GPU where there is one).

    Raises:
        DetectorError: as find_detector; or the device is not there.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise DetectorError(f"--device {where}: not usable here ({str(error).splitlines()[0]}). Try --device cpu.") from error
    if torch.device(where).type == "meta":
        raise DetectorError(f"--device {where}: computes nothing. Try --device cpu.")
    folder = find_detector(run, category)
    detector = Detector.load(folder, where)
    known = detector.about.get("categories") or []
    if category is not None and known and category not in known:
        raise DetectorError(f"{folder}: a detector of {', '.join(known)}, not of {category!r}.")
    return detector
