"""What a run says while it trains: log.jsonl for programs, one line (or a bar on a terminal) for people."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from bikd_fast.config import TrainingConfig
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.schedule import Phase


class Log:
    """Collects losses on the device and reads them back only when a line is due, so that a step never waits for the host."""

    def __init__(self, path: Path, training: TrainingConfig, ranks: Ranks, step: int = 0) -> None:
        self.path, self.training, self.ranks = path, training, ranks
        if ranks.first:
            self._forget_after(step)
        self.sums: dict[str, torch.Tensor] = {}
        self.batches = 0
        self.pictures, self.preparing, self.computing = 0, 0.0, 0.0
        self.since = time.perf_counter()

    def add(self, loss: torch.Tensor, terms: dict[str, torch.Tensor], preparing: float, computing: float, pictures: int) -> None:
        """Take in one micro-batch: its loss, its terms, seconds spent, pictures over all ranks."""
        for name, value in {"loss": loss.detach(), **terms}.items():
            self.sums[name] = self.sums[name] + value.float() if name in self.sums else value.float()
        self.batches += 1
        self.pictures += pictures
        self.preparing += preparing
        self.computing += computing

    def flush(self, step: int, now: Phase) -> None:
        """Write a line where one is due."""
        last = step + 1 == self.training.steps
        if (step + 1) % self.training.log_every and not last:
            return
        elapsed = time.perf_counter() - self.since
        rate = self.pictures / elapsed
        left = (self.training.steps - step - 1) * self.training.batch_size / rate
        means = {name: float(value) / self.batches for name, value in self.sums.items()}
        row = {
            "step": step + 1,
            "phase": now.name,
            "beta": now.beta,
            "lr": self.training.lr_student * now.student,
            **means,
            "pictures_per_second": rate,
            "share_preparing": self.preparing / elapsed,
            "share_computing": self.computing / elapsed,
            "seconds_left": left,
        }
        if self.ranks.first:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"  step {step + 1:>5}/{self.training.steps}  {now.name:<8} loss {means['loss']:.4f}  "
                f"{rate:6.1f} pictures/s  {left:4.0f} s left",
                file=sys.stderr,
                flush=True,
            )
        self.sums, self.batches, self.pictures, self.preparing, self.computing = {}, 0, 0, 0.0, 0.0
        self.since = time.perf_counter()

    def _forget_after(self, step: int) -> None:
        """Drop lines of steps that an interrupted run had logged beyond its last checkpoint: they are about to be made again."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            self.path.write_text("".join(line + "\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return float("inf")
