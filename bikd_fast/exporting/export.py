"""One export: written to a draft, run again from the disk, compared, and only then given its name."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bikd_fast.exporting.errors import ExportError
from bikd_fast.exporting.formats import FORMATS
from bikd_fast.exporting.module import Exportable, describe
from bikd_fast.exporting.parity import TOLERANCE, Parity, compare
from bikd_fast.files import write_text
from bikd_fast.models.detector import Detector
from bikd_fast.versions import versions

_PACKAGES = ("bikd_fast", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt")


def export_detector(
    detector: Detector,
    format: str,
    path: Path,
    pictures: Sequence[Path],
    *,
    picture_size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Write ``path`` and ``path``.json, which says how to use the file and how it was checked; returns the latter.

    Args:
        detector: on the CPU.
        format: of FORMATS.
        pictures: to check with, in files.
        picture_size: (H, W) of the pictures that the file will be given, which it then resizes by itself.

    Raises:
        ExportError: the format's tools are missing, there is nothing to check with, a size is below 1, a score differs by more than
            ``tolerance`` relative, or a label flips. Nothing is left at ``path`` that was not there before.
    """
    if not pictures:
        raise ExportError("no pictures to check the export with: those of the run are gone. Give a folder with --pictures DIR.")
    if picture_size is not None and min(picture_size) < 1:
        raise ExportError(f"--picture-size {picture_size[0]} {picture_size[1]}: height and width must be at least 1 pixel.")
    if path.is_dir():
        raise ExportError(f"{path}: a folder. Name the file to write.")
    chosen = FORMATS[format]
    module = Exportable(detector, picture_size)
    description = describe(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as draft:
        written = Path(draft) / path.name
        chosen.write(module, written, description)
        parity = compare(detector, chosen.open(written), pictures, picture_size, tolerance)
        if not parity.passed:
            raise ExportError(_refusal(path, parity))
        files = sorted(p for p in Path(draft).iterdir() if p.is_file())
        record = {
            **description,
            "file": path.name,
            "kind": format,
            "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
            "parity": parity.to_dict(),
            "versions": versions(_PACKAGES),
        }
        for file in files:
            shutil.move(file, path.parent / file.name)
    write_text(path.with_name(path.name + ".json"), json.dumps(record, indent=1) + "\n")
    return record


def _refusal(path: Path, parity: Parity) -> str:
    if parity.label_flips:
        found = f"{len(parity.label_flips)} of {parity.pictures} labels flip, the first for {parity.label_flips[0]}"
    else:
        found = f"a score differs by {parity.largest_score:.2e} relative (allowed {parity.tolerance:.0e}), for {parity.worst}"
    return f"{path}: not exported, for the exported file does not judge as the detector does: {found}."
