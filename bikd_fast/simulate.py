"""What training would make of pictures: `bikd simulate PICTURES... --sheet sheet.png`, `python bikd_fast/simulate.py ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bikd_fast.errors import UserError, guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw simulated defects on good pictures and write them as one contact sheet."""
    parser = argparse.ArgumentParser(prog="bikd simulate", description="A contact sheet of simulated defects on good pictures.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="good pictures: files, folders, globs")
    parser.add_argument("--sheet", type=Path, required=True, metavar="FILE", help="where to write it, such as sheet.png")
    parser.add_argument("--config", type=Path, help="config.yaml of a run: its simulation, textures and picture size")
    parser.add_argument("--textures", type=Path, metavar="DIR", help="other surfaces; default the configuration's, or none")
    parser.add_argument("--rows", type=int, default=16, help="samples on the sheet; default 16")
    parser.add_argument("--size", type=int, help="side in pixels, a multiple of 32; default the configuration's, or 256")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other defects; default 0")
    options = parser.parse_args(arguments)
    if options.rows < 1 or (options.size is not None and (options.size < 64 or options.size % 32)):
        parser.error("--rows must be at least 1, --size a multiple of 32 of at least 64")

    import itertools

    import torch

    from bikd_fast.config import RunConfig
    from bikd_fast.data.listing import require_pictures
    from bikd_fast.inference.inputs import square
    from bikd_fast.inference.sources import expand
    from bikd_fast.simulation import Simulator
    from bikd_fast.simulation.foreground import SAMPLE
    from bikd_fast.simulation.sheet import sheet

    found = expand(options.pictures)
    if found.count is None:
        raise UserError("simulate takes picture files, folders and globs, no videos and no lists.")
    run = RunConfig()
    if options.config:
        from bikd_fast.arguments import load_run

        if not options.config.is_file():
            raise UserError(f"{options.config}: no such file.")
        run = load_run(options.config)
    size = options.size or run.data.image_size
    some = itertools.islice(found.sources, max(options.rows, SAMPLE))  # as many as training looks for objects on
    pool = torch.stack([square(source.name, size) for source in some])
    folder = options.textures or run.data.textures
    textures = torch.stack([square(path, size) for path in require_pictures(Path(folder), below=True)]) if folder else None
    try:
        sheet(pool, Simulator(run.simulation, pool, textures=textures), options.sheet, rows=options.rows, seed=options.seed)
    except (OSError, ValueError) as error:
        raise UserError(f"{options.sheet}: cannot be written ({error}).") from error
    print(f"{options.sheet}: {options.rows} samples from {len(pool)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
