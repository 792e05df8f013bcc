"""Look at pictures with a trained detector: `bikd predict RUN PICTURES...`, `python bikd_fast/predict.py RUN PICTURES...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bikd_fast.errors import guarded

KINDS = ("csv", "json", "heatmaps", "masks", "polygons")
EPILOG = """PICTURES: files, folders (searched to the bottom), globs, video files, camera:N, or - for a list of paths on
standard input. Exit code: 0 all pictures were read, 1 some could not be, 2 an error."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="bikd predict", description="Find defects in pictures.", epilog=EPILOG)
    found.add_argument("run", type=Path, help="folder of a finished run")
    found.add_argument("pictures", nargs="+", metavar="PICTURES", help="what to look at")
    found.add_argument("--category", help="which detector, where the run holds several")
    found.add_argument("--output", type=Path, help="folder for the results; default RUN/predictions")
    found.add_argument(
        "--write",
        type=_kinds,
        default="csv,json,heatmaps",
        metavar="KINDS",
        help=f"which results to write, of {','.join(KINDS)}, all, none; default csv,json,heatmaps",
    )
    found.add_argument("--tile", type=int, metavar="PIXELS", help="cut large pictures into squares of this side, a multiple of 32")
    found.add_argument("--overlap", type=float, help="share of a tile that its neighbour covers too; default 0.25")
    found.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th frame of a video or camera")
    found.add_argument("--batch", type=int, default=8, help="pictures through the network at a time; default 8")
    found.add_argument("--device", help="cpu, cuda, cuda:1 ...; default the GPU where there is one")
    return found


def _kinds(words: str) -> list[str]:
    chosen = [word for word in words.replace(" ", "").split(",") if word]
    unknown = [word for word in chosen if word not in (*KINDS, "all", "none")]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: choose among {', '.join(KINDS)}, all, none")
    return list(KINDS) if "all" in chosen else [word for word in chosen if word != "none"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a picture as soon as it is known, write the files that were asked for, end with a summary."""
    options = parser().parse_intermixed_args(arguments)
    if options.every < 1 or options.batch < 1:
        parser().error("--every and --batch must be at least 1")
    if options.overlap is not None and options.tile is None:
        parser().error(f"--overlap {options.overlap}: without --tile PIXELS there are no tiles that could overlap")

    from bikd_fast.inference.command import predict_command

    return predict_command(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
