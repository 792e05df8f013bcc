"""What a run says while it trains: log.jsonl for programs, a line now and then for people."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bikd_fast.config import TrainingConfig
from bikd_fast.files import write_text
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.schedule import Phase
from bikd_fast.training.traffic import Traffic


def peak_megabytes(ranks: Ranks) -> float:
    """Most memory this process has held: allocated on its GPU, or resident."""
    if ranks.device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


class Log:
    """Collects losses on the device and reads them back only when a line is due, so that a step never waits for the host.

    Shares of a line's wall time: ``share_data`` is waiting for pictures, ``share_communication`` is waiting in collectives (for
    the network and for slower ranks), ``share_compute`` is the rest of the steps, ``share_other`` is what lies between them
    (checkpoints, logging). On a GPU the first is what the host waits; the device may be computing meanwhile.
    """

    def __init__(self, path: Path, training: TrainingConfig, ranks: Ranks, step: int = 0, label: str = "") -> None:
        self.path, self.training, self.ranks, self.label = path, training, ranks, label
        if ranks.first:
            self._forget_after(step)
        self.traffic = Traffic(ranks.device)
        self.bad_steps, self.until = 0, training.steps  # a line is due at the end, or where the training is to pause
        self.spent = dict.fromkeys(("pictures", "elapsed", "data", "communication", "compute"), 0.0)  # since this process began
        self.peak = 0.0
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.batches: dict[str, torch.Tensor] = {}
        self.pictures, self.waiting, self.working = 0, 0.0, 0.0
        self.since = time.perf_counter()

    def add(self, loss: torch.Tensor, terms: dict[str, torch.Tensor], waiting: float, working: float, pictures: int) -> None:
        """Take in one micro-batch: its loss and terms (those that are not finite count for nothing), seconds spent waiting for
        data and on everything else, pictures over all ranks."""
        for name, value in {"loss": loss.detach(), **terms}.items():
            value = value.float()
            good = torch.isfinite(value)
            value = torch.where(good, value, 0.0)
            known = name in self.sums
            self.sums[name] = self.sums[name] + value if known else value
            self.batches[name] = self.batches[name] + good if known else good.float()
        self.pictures += pictures
        self.waiting += waiting
        self.working += working

    def due(self, step: int) -> bool:
        return (step + 1) % self.training.log_every == 0 or step + 1 == self.until

    def flush(
        self, step: int, now: Phase, rate: float, found: dict[str, float] | None = None, scaling: dict[str, float] | None = None
    ) -> dict[str, Any]:
        """Write a line where one is due, and return it, else {}; every rank has to call.

        Args:
            rate: the student's learning rate.
            found: what rank 0 saw on held-out pictures.
            scaling: of fp16, see :func:`bikd_fast.training.engine.scaling`.
        """
        if not self.due(step):
            return {}
        means = self._means()
        memory = self._memory()
        communication = self.traffic.read()
        elapsed = time.perf_counter() - self.since
        speed = self.pictures / elapsed
        left = (self.training.steps - step - 1) * self.training.batch_size / speed
        parts = (self.pictures, elapsed, self.waiting, communication, max(0.0, self.working - communication))
        self.spent = {name: before + part for (name, before), part in zip(self.spent.items(), parts)}
        self.peak = memory
        row = {
            "step": step + 1,
            "phase": now.name,
            "beta": now.beta,
            "lr": rate,
            **means,
            "pictures_per_second": speed,
            "share_data": self.waiting / elapsed,
            "share_communication": communication / elapsed,
            "share_compute": max(0.0, self.working - communication) / elapsed,
            "share_other": max(0.0, elapsed - self.waiting - self.working) / elapsed,
            "peak_memory_mb": memory,
            "bad_steps": self.bad_steps,
            **(scaling or {}),
            "seconds_left": left,
            **{f"held_out_{name}": value for name, value in (found or {}).items()},
        }
        if self.ranks.first:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"  {self.label}step {step + 1:>5}/{self.training.steps}  {now.name:<8} loss {means['loss']:.4f}  "
                f"{speed:6.1f} pictures/s  {left:4.0f} s left",
                file=sys.stderr,
                flush=True,
            )
        self._clear()
        return row

    def conclude(self) -> dict[str, float]:
        """What the whole training of this process came to, as in the lines of the log; said in one line, empty for no step."""
        if not self.spent["elapsed"]:
            return {}
        whole = self.spent["elapsed"]
        shares = {name: self.spent[name] / whole for name in ("data", "communication", "compute")}
        shares["other"] = max(0.0, 1 - sum(shares.values()))
        found = {"pictures_per_second": self.spent["pictures"] / whole, **{f"share_{n}": s for n, s in shares.items()}}
        found["bad_steps"] = self.bad_steps  # the last step's too, which its line could not know yet
        if self.ranks.first:
            said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
            speed = f"{found['pictures_per_second']:.1f} pictures/s"
            print(f"  {self.label}{speed}; time: {said}; peak memory {self.peak:.0f} MB", file=sys.stderr, flush=True)
        return {name: round(value, 4) for name, value in found.items()}

    def _means(self) -> dict[str, float]:
        """Means over the micro-batches of all ranks since the last line; NaN where none was finite."""
        names = sorted(self.sums, key=lambda n: (n != "loss", n))
        table = torch.stack([torch.stack([self.sums[n], self.batches[n]]) for n in names]).cpu()
        if self.ranks.world > 1:
            dist.all_reduce(table, group=self.ranks.control)
        return {name: float(total / count) for name, (total, count) in zip(names, table)}

    def _memory(self) -> float:
        """Peak memory of the hungriest rank in MB: allocated on the GPU, or resident."""
        peak = peak_megabytes(self.ranks)
        if self.ranks.world > 1:
            highest = torch.tensor(peak)
            dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=self.ranks.control)
            peak = round(float(highest), 1)
        return peak

    def _forget_after(self, step: int) -> None:
        """Drop lines of steps that an interrupted run had logged beyond its last checkpoint: they are about to be made again."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(line + "\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return float("inf")
