"""Train: `deepspeed bikd_fast/train.py`, `python bikd_fast/train.py`, or `bikd train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bikd_fast import heap
from bikd_fast.arguments import guarded, parse_run, run_parser
from bikd_fast.config import ConfigError
from bikd_fast.training.place import said_once


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train every detector of the run, evaluate, report; RUN/DONE says that all of it was done."""
    with said_once():
        words = resuming(sys.argv[1:] if arguments is None else arguments)
        config = parse_run(run_parser("bikd train", "Train a detector from good pictures."), words)

    from bikd_fast.inference.run import evaluate_run
    from bikd_fast.inference.shares import Share
    from bikd_fast.training import distributed
    from bikd_fast.training.folder import finish
    from bikd_fast.training.run import meet, side_by_side, train

    def work(ranks: distributed.Ranks) -> None:
        with heap.kept(), ExitStack() as stay:
            run = train(config, ranks, stay)
            share = Share(ranks.rank, ranks.world, ranks.control)
            evaluate_run(run, share=share, place=ranks.place, places=ranks.places, meet=lambda: meet(ranks))
            if ranks.leads:
                finish(run)

    with said_once():
        apart = side_by_side(config, distributed.job_size())
    distributed.together(work, config.training.silence, apart=apart)
    return 0


def resuming(words: Sequence[str]) -> list[str]:
    """``--resume RUN`` -> the settings of RUN first, then the rest of the line, then RUN as the output.

    Raises:
        ConfigError: RUN is no run folder.
    """
    rest: list[str] = []
    run = None
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--resume=") else [word])]
    for word in words:
        if rest and rest[-1] == "--resume" and word not in ("auto", "never"):
            rest.pop()
            run = Path(word)
        else:
            rest.append(word)
    if run is None:
        return rest
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"resume: {run} is not a run folder (no config.yaml there). Give auto, never, or the folder of a run.")
    return ["--config", str(run / "config.yaml"), *rest, "--output", str(run), "--resume", "auto"]


if __name__ == "__main__":
    sys.exit(guarded(main))
