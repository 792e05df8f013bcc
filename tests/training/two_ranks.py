"""What two processes do for test_training_two_ranks.py, in one go because starting them is what takes long.

    RANK=... WORLD_SIZE=2 ... python two_ranks.py DATA FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.training import distributed
from bikd_fast.training.distillation import Distillation
from bikd_fast.training.run import train

STEPS, CUT = 6, 3
TINY = ["--model.weights", "random", "--model.size", "0.125", "--data.image_size", "64", "--training.batch_size", "4"]


def settings(root, output, *extra, stage=0):
    """L_con is on because its mean over normal positions is what a wrong divisor over ranks shows in; the margin is beyond every
    distance, because a position that sits on the hinge goes either way by the last bit (once seen, 1.2e-7 from it)."""
    user = Path(output).parent / f"zero{stage}.json"
    if not user.exists():
        user.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    return parse_run(
        run_parser("test", ""),
        [
            *TINY, "--data.format", "mvtec", "--data.root", str(root), "--data.category", "stripes", "--output", str(output),
            "--training.precision", "fp32", "--training.steps", str(STEPS), "--training.checkpoint_seconds", "1e-9",
            "--training.keep_checkpoints", "9", "--training.log_every", "1", "--training.forward_only", "0.2",
            "--objective.con", "true", "--objective.margin", "2", "--deepspeed_config", str(user), *extra,
        ],
    )  # fmt: skip


def nan_in(ranks, step, on_rank):
    """Make the loss of one step not finite, on one rank."""
    forward, calls = Distillation.forward, [0]

    def broken(self, inputs, beta):
        loss, terms = forward(self, inputs, beta)
        calls[0] += 1
        return (loss * torch.nan if calls[0] == step and ranks.rank == on_rank else loss), terms

    Distillation.forward = broken
    return lambda: setattr(Distillation, "forward", forward)


def work(ranks):
    root, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for stage in range(4):
        train(settings(root, folder / f"zero{stage}", stage=stage), ranks)
        train(settings(root, folder / f"resumed{stage}", stage=stage), ranks)
    undo = nan_in(ranks, step=3, on_rank=1)
    train(settings(root, folder / "nan"), ranks)
    undo()


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.together(work)
