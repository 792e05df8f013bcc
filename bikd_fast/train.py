"""Train: `deepspeed bikd_fast/train.py`, `python bikd_fast/train.py`, or `bikd train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bikd_fast.arguments import guarded, parse_run, run_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train every detector of the run, evaluate, report."""
    config = parse_run(run_parser("bikd train", "Train a detector from good pictures."), arguments)

    from bikd_fast.inference.run import evaluate_run
    from bikd_fast.training import distributed
    from bikd_fast.training.run import train

    ranks = distributed.start()
    run = train(config, ranks)
    if ranks.first:
        evaluate_run(run)
    distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
