"""What a step's gradient may be: a loss that is not finite is skipped on every rank, counted, and its pictures are named; a
gradient that is too long is clipped.

Whether a step is skipped is decided on the device (the optimizer reads a flag there), so nothing waits for the host; the host
reads the flag a step late, writes down the names, and stops the run when too many come in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from bikd_fast.errors import UserError
from bikd_fast.training.distributed import Ranks
from bikd_fast.training.engine import fused
from bikd_fast.training.sampling import Batch

_NAMED = 8  # pictures at most where any of a whole batch may be the cause


class TrainingError(UserError):
    """Training cannot go on; the message says why and what is left of it."""


class BadSteps:
    """Flags, counts and names of steps whose loss or gradient is not finite.

    Args:
        names: of the training pictures, for messages.
        limit: bad steps in a row that end the run.
        clip: greatest norm of a step's gradient; 0 clips nothing.

    Attributes:
        flag: 0-dim float32 on the device, 1 while the step in hand is to be skipped; the same on every rank.
        scale: 0-dim float32 on the device, what the optimizer divides the gradient of the step in hand by.
        count: bad steps so far.
    """

    def __init__(self, ranks: Ranks, names: Sequence[str], limit: int, clip: float = 0.0) -> None:
        self.ranks, self.names, self.limit, self.clip = ranks, names, limit, clip
        self.flag = torch.zeros((), device=ranks.device)
        self.scale = torch.ones((), device=ranks.device)
        self.count = self.in_a_row = 0
        self._losses: list[torch.Tensor] = []
        self._waiting: tuple[int, torch.Tensor, list[Batch]] | None = None

    def add(self, loss: torch.Tensor) -> None:
        """Take in the loss of one micro-batch."""
        self._losses.append(loss.detach().float().reshape(()))

    def settle(self, gradients: Sequence[torch.Tensor]) -> None:
        """Set flag and scale of this step, before the optimizer runs, from its losses and the gradients this rank holds whole."""
        bad = ~torch.isfinite(torch.stack(self._losses)).all()
        if gradients:
            norm = torch.stack(torch._foreach_norm(list(gradients))).float().norm()
            bad |= ~torch.isfinite(norm)
            if self.clip:
                self.scale.copy_(((norm + 1e-6) / self.clip).clamp(min=1))
        self.flag.copy_(bad)
        if self.ranks.world > 1:
            dist.all_reduce(self.flag, op=dist.ReduceOp.MAX)

    def overflowed(self, optimizer: Any) -> None:
        """Count a step that DeepSpeed's ZeRO has left out by itself, because a gradient that no rank holds whole was not finite.

        While fp16's loss scale is looked for, that is as it should be and does not count.
        """
        if getattr(optimizer, "overflow", False) and not getattr(optimizer, "dynamic_loss_scale", False):
            self.flag.fill_(1)

    def exhausted(self, step: int, batches: list[Batch], scale: str) -> TrainingError:
        """What to say where fp16's loss scale cannot be lowered any further; every rank comes to it at the same step."""
        losses = [bool(torch.isfinite(loss)) for loss in self._losses]
        suspect = [batch for batch, good in zip(batches, losses) if not good] or batches
        names = self._pictures(suspect)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return TrainingError(
            f"step {step + 1}: gradients in fp16 are not finite at the smallest loss scale either ({scale}). This step's pictures: "
            f"{', '.join(names[:_NAMED])}{more}. Look at these; if they are good, take bf16 in the DeepSpeed "
            "configuration, or leave fp16 out for float32."
        )

    def _pictures(self, batches: list[Batch]) -> list[str]:
        """Names of the pictures in every rank's batches, in the order of the ranks; all have to call."""
        names = [self.names[i] for batch in batches for i in batch.index.tolist()]
        if self.ranks.world == 1:
            return names
        gathered: list[list[str]] = [[] for _ in range(self.ranks.world)]
        dist.all_gather_object(gathered, names, group=self.ranks.control)
        return [name for part in gathered for name in part]

    def remember(self, step: int, batches: list[Batch]) -> None:
        """Start reading this step's flag back; :meth:`look_back` is called a step later."""
        mine = torch.stack([self.flag, *(~torch.isfinite(torch.stack(self._losses))).float()])
        self._losses = []
        host = torch.empty(mine.shape, pin_memory=True).copy_(mine, non_blocking=True) if mine.is_cuda else mine
        if mine.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._waiting = (step, host, batches)

    def look_back(self) -> str | None:
        """A message about the remembered step if it was skipped, the same on every rank; None if it was good.

        Raises:
            TrainingError: the limit of bad steps in a row is reached.
        """
        if self._waiting is None:
            return None
        step, host, batches = self._waiting
        self._waiting = None
        if host.is_pinned():
            self._copied.synchronize()
        whole, *micro = host.tolist()
        if not whole:
            self.in_a_row = 0
            return None
        self.count += 1
        self.in_a_row += 1
        names = self._pictures([batch for bad, batch in zip(micro, batches) if bad])
        what = f"the loss is not finite on a micro-batch of: {', '.join(names)}" if names else "the gradient is not finite"
        if self.in_a_row >= self.limit:
            raise TrainingError(
                f"step {step + 1}: {what}. That is {self.in_a_row} steps in a row (training.max_bad_steps). "
                "Look at these pictures; if they are good, lower training.lr_student or take --training.precision fp32."
            )
        return f"step {step + 1} skipped: {what}"


def guard(optimizer: torch.optim.Optimizer, bad: BadSteps) -> None:
    """Make ``optimizer.step`` leave weights and state alone while ``bad.flag`` is 1, and clip where ``bad`` does.

    torch's fused optimizers read both numbers on the device; any other asks the host for the flag, which on a GPU costs a wait a
    step.
    """
    if fused(optimizer):
        optimizer.grad_scale = bad.scale if bad.clip else None  # type: ignore[attr-defined]
        optimizer.found_inf = bad.flag  # type: ignore[attr-defined]
        return
    step = optimizer.step

    def guarded(*args, **kwargs):
        return None if bad.flag.item() else step(*args, **kwargs)

    optimizer.step = guarded  # type: ignore[method-assign]
