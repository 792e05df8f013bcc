"""Export a detector for another runtime: `bikd export RUN --format onnx`, `python bikd_fast/export.py RUN --format onnx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bikd_fast.errors import guarded

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml", "tensorrt": ".engine"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and its record, checked against the detector; nothing is left behind when the check fails."""
    described = "Write a detector as a file for another runtime, checked against the detector itself."
    parser = argparse.ArgumentParser(prog="bikd export", description=described)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--format", choices=SUFFIXES, default="onnx", help="default onnx")
    parser.add_argument("--category", help="which detector, where the run holds several")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: detector.SUFFIX beside the detector")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="to check with; default the pictures the run was measured on")
    parser.add_argument(
        "--picture-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the pictures; puts the resizing into the file"
    )
    options = parser.parse_args(arguments)

    from bikd_fast.exporting.export import export_detector
    from bikd_fast.exporting.parity import run_pictures
    from bikd_fast.inference.find import find_detector, load_detector
    from bikd_fast.inference.sources import picture_paths

    folder = find_detector(options.run, options.category)
    detector = load_detector(options.run, options.category, "cpu")
    base = folder.parent if folder.is_file() else folder
    path = options.output or base / f"detector{SUFFIXES[options.format]}"
    if path.suffix != SUFFIXES[options.format]:
        parser.error(f"--output {path}: a file of format {options.format} must end in {SUFFIXES[options.format]}")
    pictures = picture_paths(options.pictures) if options.pictures else run_pictures(options.run, base, detector.threshold.item())
    size = tuple(options.picture_size) if options.picture_size else None
    parity = export_detector(detector, options.format, path, pictures, picture_size=size)["parity"]
    print(
        f"{path}\n{parity['pictures']} pictures checked: scores differ by at most {parity['largest_score']:.1e} relative, "
        f"no label flips; recorded in {path}.json"
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
