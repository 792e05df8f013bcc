"""What the trainer adds to the networks: a whole training step against the bare passes of the same networks on the same batch.

    python benchmarks/training_overhead.py [--steps 30] [any option of `bikd train`]

Bare = frozen features of the corrupted batch, adapter and student forward, the eager objective's backward through them: what
any implementation of the method has to compute. Whole = the trainer's own step: sampling, simulation, the objective's
operators, DeepSpeed engine, optimizer, logging. Both alternate in one process and medians are compared, for each kind of step
of the schedule (the ramp costs what both directions cost) and, weighted by how many of each a run has, for the run. The
ratios are appended to benchmarks/results/training_overhead.csv; nothing is written unless the trainer's step and the bare
passes, started from the same weights on the same batch, give the same loss.
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
from bikd_fast.config import RunConfig
from bikd_fast.training import distributed
from bikd_fast.training.schedule import Phase, phase
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


def phases(config: RunConfig) -> list[tuple[Phase, float]]:
    """Kinds of steps of a run, and the share of each."""
    steps = [phase(i, config.training, config.objective, config.model.adapter) for i in range(config.training.steps)]
    names = [("both" if step.name == "ramp" else step.name) for step in steps]
    last = dict(zip(names, steps))
    return [(last[name], names.count(name) / len(names)) for name in dict.fromkeys(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    options, passed = parser.parse_known_args()
    config = parse_run(run_parser("training_overhead", ""), ["--training.log_every", "1000000", "--resume", "never", *passed])
    ranks = distributed.start()
    side = config.data.image_size
    pictures = (torch.rand(32, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255).byte()
    rows, whole_run, bare_run = [], 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, pictures, [""] * 32, ranks, Path(folder))
        for now, share in phases(config):
            whole, alone = [], []
            for step in range(options.steps):
                trainer.step = step
                batch = trainer.sampler.batches(step)[0]
                shown = trainer.pool.load(batch.index)
                made = trainer.simulator(shown, batch.index, batch.keys)
                inputs = trainer._inputs(batch, now)
                started = time.perf_counter()
                expected = bare(trainer, made, inputs, now)
                alone.append(time.perf_counter() - started)
                trainer.engine.module.zero_grad(set_to_none=True)

                before = trainer.log.sums.get("loss", torch.zeros(()))
                started = time.perf_counter()
                trainer._step(now)
                whole.append(time.perf_counter() - started)
                found = trainer.log.sums["loss"] - before
                if not torch.allclose(found, expected.float(), rtol=1e-4):
                    raise SystemExit(f"the step's loss {found:.6f} is not the bare passes' {expected:.6f}")
            skip = options.steps // 5  # the first steps warm caches up
            ours, theirs = statistics.median(whole[skip:]), statistics.median(alone[skip:])
            whole_run, bare_run = whole_run + share * ours, bare_run + share * theirs
            rows.append((now.name, ours / theirs))
        rows.append(("run", whole_run / bare_run))
        for name, ratio in rows:
            print(f"{name:<8} whole step / bare passes = {ratio:.3f}")
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
