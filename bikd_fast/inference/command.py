"""What `bikd predict` does once its words are understood."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections import Counter

from tqdm import tqdm

from bikd_fast import heap
from bikd_fast.inference.colours import colour_range
from bikd_fast.inference.find import find_detector, load_detector
from bikd_fast.inference.look import Result, look
from bikd_fast.inference.sources import expand
from bikd_fast.inference.tiling import Tiling
from bikd_fast.inference.writers import DRAWN, Writers, verdict

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def predict_command(options: Namespace) -> int:
    """Options of bikd_fast/predict.py -> exit code: 0, or 1 where a picture could not be read."""
    overlap = Tiling.overlap if options.overlap is None else options.overlap
    tiling = None if options.tile is None else Tiling(options.tile, overlap)
    folder = find_detector(options.run, options.category)
    base = folder.parent if folder.is_file() else folder
    output = options.output or base / "predictions"
    inputs = expand(options.pictures, every=options.every, without=[output / kind for kind in DRAWN])
    detector = load_detector(options.run, options.category, options.device)
    thresholds = (detector.threshold.item(), detector.pixel_threshold.item())
    chosen = detector.about.get("threshold", {})
    about = {"detector": str(folder), "categories": detector.about.get("categories", []), "threshold_chosen": chosen}
    colours = colour_range(base, thresholds[1]) if "heatmaps" in options.write else None
    found: Counter[str] = Counter()
    with heap.kept(), Writers(output, options.write, thresholds, colours, about) as writers:
        bar = tqdm(total=inputs.count, unit=" pictures", delay=1, disable=None, leave=False)
        for result in look(detector, inputs, tiling=tiling, keep=writers.keeps_pictures, batch=options.batch):
            writers.add(result)
            found["unreadable" if result.error else verdict(result.score, thresholds[0])] += 1
            bar.update()
            with bar.external_write_mode(file=sys.stdout):
                print(_line(result, thresholds[0]), flush=True)
        bar.close()
    summary = ", ".join(f"{count} {what}" for what, count in sorted(found.items())) or "nothing"
    print(f"{sum(found.values())} pictures: {summary}" + (f"; results in {output}" if writers.kinds else ""), file=sys.stderr)
    if chosen.get("met") is False:
        print(f"threshold: {chosen['promise']}", file=sys.stderr)
    if found["unknown"]:
        print(f"no verdicts: {chosen.get('promise', 'this detector has no threshold.')}", file=sys.stderr)
    if math.isnan(thresholds[1]) and {"masks", "polygons"} & set(options.write):
        print("no masks and no regions: this detector has no threshold of a pixel.", file=sys.stderr)
    return 1 if found["unreadable"] else 0


def _line(result: Result, threshold: float) -> str:
    """One line, whatever characters a name has."""
    if result.error:
        line = f"{'-':>10}  {'unreadable':<10}  {result.error}"
    else:
        line = f"{result.score:10.4f}  {verdict(result.score, threshold):<10}  {result.source.name}"
    return line.translate(_CONTROLS)
