"""What the trainer adds to the networks: a whole training step against the bare passes of the same networks on the same batch.

    python benchmarks/training_overhead.py [--steps 30] [--out FILE] [any option of `bikd train`]

Bare = frozen features of the corrupted batch, adapter and student forward, the trainer's own objective, backward: what any
implementation of the method has to compute, so what the objective itself takes does not show here (benchmarks/kernels.py has
it). Whole = the trainer's own step: sampling, simulation, the objective's operators, DeepSpeed engine, optimizer, logging. Both
alternate in one process and medians are compared, for each kind of step of the schedule (the ramp costs what both directions
cost) and, weighted by how many of each a run has, for the run. On a GPU each is waited for, and the simulation by itself is
timed beside them. Rows are appended to benchmarks/results/training_overhead.csv (absolute times only from a GPU); nothing is
written unless the trainer's step and the bare passes, started from the same weights on the same batch, give the same loss.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, append, environment, random_pictures

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.config import RunConfig
from bikd_fast.training import distributed
from bikd_fast.training.schedule import Phase, phase
from bikd_fast.training.trainer import Trainer

COLUMNS = [
    "phase", "ratio", "step_ms", "bare_ms", "simulation_ms", "pictures_per_second", "batch", "teacher", "student", "size", "dtype",
    "device", "cores", "threads", "load", "torch", "triton", "commit", "when", "deepspeed",
]  # fmt: skip


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What the call returns, and its seconds; on a GPU until its work there is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return found, time.perf_counter() - started


def bare(trainer: Trainer, made, inputs, phase: Phase) -> torch.Tensor:
    """Forward and backward of the networks alone: no simulation, no engine, no optimizer."""
    module = trainer.engine.module
    with torch.autocast(trainer.ranks.device.type, dtype=torch.bfloat16, enabled=trainer.dtype == torch.bfloat16):
        if phase.backward or phase.head:
            inputs.corrupt = trainer.pool.frozen(made.corrupted)
        loss, _ = module(inputs, phase.weight)
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
    parser.add_argument("--out", type=Path, default=RESULTS / "training_overhead.csv")
    options, passed = parser.parse_known_args()
    config = parse_run(run_parser("training_overhead", ""), ["--training.log_every", "1000000", "--resume", "never", *passed])
    ranks = distributed.start()
    gpu = ranks.device.type == "cuda"
    pictures = random_pictures(config)
    rows, whole_run, bare_run = [], 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, pictures, [""] * len(pictures), ranks, Path(folder))
        for now, share in phases(config):
            whole, alone, simulated = [], [], []
            for step in range(options.steps):
                trainer.step = step
                batch = trainer.sampler.batches(step)[0]
                shown = trainer.pool.load(batch.index)
                index, keys = batch.index.to(ranks.device), batch.keys.to(ranks.device)
                made, seconds = timed(lambda: trainer.simulator(shown, index, keys), ranks.device)  # noqa: B023
                simulated.append(seconds)
                inputs = trainer._inputs(batch, now)
                expected, seconds = timed(lambda: bare(trainer, made, inputs, now), ranks.device)  # noqa: B023
                alone.append(seconds)
                trainer.engine.module.zero_grad(set_to_none=True)

                before = trainer.log.sums.get("loss", torch.zeros((), device=ranks.device))
                _, seconds = timed(lambda: trainer._step(now), ranks.device)  # noqa: B023
                whole.append(seconds)
                found = trainer.log.sums["loss"] - before
                # on a GPU a captured convolution may take another algorithm than an eager one: bf16 differs in its last bits
                if not torch.allclose(found, expected.float(), rtol=1e-3 if gpu else 1e-4, atol=1e-6):
                    raise SystemExit(f"the step's loss {found:.6f} is not the bare passes' {expected:.6f}")
            skip = options.steps // 5  # the first steps warm caches up
            ours, theirs, drawing = (statistics.median(x[skip:]) for x in (whole, alone, simulated))
            whole_run, bare_run = whole_run + share * ours, bare_run + share * theirs
            rows.append((now.name, ours, theirs, drawing))
        rows.append(("run", whole_run, bare_run, None))
        for name, ours, theirs, _ in rows:
            print(f"{name:<8} whole step / bare passes = {ours / theirs:.3f}")
        trainer.engine.destroy()
    distributed.stop()
    shared = dict(
        batch=config.training.batch_size, teacher=config.model.teacher, student=config.model.student, size=config.model.size,
        dtype=str(trainer.dtype).split(".")[1], **environment(ranks.device.type),
        deepspeed=version("deepspeed"),
    )  # fmt: skip
    append(options.out, [dict(shared, phase=name, ratio=f"{ours / theirs:.4f}") | ({} if not gpu else dict(
        step_ms=f"{1e3 * ours:.3f}", bare_ms=f"{1e3 * theirs:.3f}", simulation_ms="" if drawing is None else f"{1e3 * drawing:.3f}",
        pictures_per_second=f"{config.training.batch_size / ours:.1f}",
    )) for name, ours, theirs, drawing in rows], COLUMNS)  # fmt: skip


if __name__ == "__main__":
    main()
