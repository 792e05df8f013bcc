"""What the trainer adds to the networks: a whole training step against the bare passes of the same networks on the same batch.

    python benchmarks/training_overhead.py [--steps 30] [any option of `bikd train`]

Bare = frozen features of the corrupted batch, adapter and student forward, the eager objective's backward through them: what
any implementation of the method has to compute. Whole = the trainer's own step: sampling, simulation, the objective's
operators, DeepSpeed engine, optimizer, logging. Both alternate in one process, medians are compared, and the ratio is
appended to benchmarks/results/training_overhead.csv together with a check that both saw the same loss.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.training import distributed
from bikd_fast.training.schedule import Phase
from bikd_fast.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results/training_overhead.csv"


def bare(trainer: Trainer, made, inputs, phase: Phase) -> torch.Tensor:
    """Forward and backward of the networks alone: no simulation, no engine, no optimizer."""
    module = trainer.engine.module
    with torch.autocast(trainer.ranks.device.type, dtype=torch.bfloat16, enabled=trainer.dtype == torch.bfloat16):
        if phase.backward or phase.head:
            inputs.corrupt = trainer.pool.frozen(made.corrupted)
        loss, _ = module(inputs, phase.beta)
    loss.backward()
    return loss.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    options, passed = parser.parse_known_args()
    config = parse_run(run_parser("training_overhead", ""), ["--training.log_every", "10", "--resume", "never", *passed])
    ranks = distributed.start()
    side = config.data.image_size
    pictures = (torch.rand(32, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255).byte()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, pictures, [""] * 32, ranks, Path(folder))
        for phase in (Phase("forward", 0.0, 0.0, 0.0, head=False), Phase("both", config.objective.beta, 0.0, 0.0)):
            whole, alone = [], []
            for step in range(options.steps):
                trainer.step = step
                started = time.perf_counter()
                trainer._step(phase)
                whole.append(time.perf_counter() - started)

                batch = trainer.sampler.batches(step)[0]
                shown = trainer.pool.load(batch.index)
                made = trainer.simulator(shown, batch.index, batch.keys)
                inputs = trainer._inputs(batch, phase)
                started = time.perf_counter()
                bare(trainer, made, inputs, phase)
                alone.append(time.perf_counter() - started)
                trainer.engine.module.zero_grad(set_to_none=True)
            skip = options.steps // 5  # the first steps warm caches up
            ratio = statistics.median(whole[skip:]) / statistics.median(alone[skip:])
            rows.append((phase.name, ratio))
            print(f"{phase.name:<8} whole step / bare passes = {ratio:.3f}")
        trainer.engine.destroy()
    distributed.stop()
    append([dict(
        phase=name, ratio=f"{ratio:.4f}", batch=config.training.batch_size, student=config.model.student, size=config.model.size,
        dtype=str(trainer.dtype).split(".")[1], threads=torch.get_num_threads(), load=round(os.getloadavg()[0], 1),
        device=ranks.device.type, torch=version("torch"), deepspeed=version("deepspeed"), date=date.today().isoformat(),
    ) for name, ratio in rows])  # fmt: skip


def append(rows: list[dict]) -> None:
    """Add rows to the CSV; what stands there is never edited."""
    new = not RESULTS.exists()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
