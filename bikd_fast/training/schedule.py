"""When what is trained: phases of the bidirectional schedule and the rates (method.md, "Schedule")."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bikd_fast.config import ObjectiveConfig, TrainingConfig


@dataclass(frozen=True)
class Phase:
    """What holds at one step.

    Attributes:
        name: forward, ramp, both, or frozen.
        beta: forward/backward balance of this step.
        student, teacher: factors of the two peak rates. They carry the balance, (1 - beta) : beta with the larger one at its peak:
            the two directions train different parameters, so for plain descent that is what weights of their losses would do, and
            for Adam, which divides every gradient by its own size, such weights would do next to nothing.
        head: whether the segmentation head learns; it waits until the student has something to say.
    """

    name: str
    beta: float
    student: float
    teacher: float
    head: bool = True

    @property
    def weight(self) -> float:
        """What the objective weighs the directions by: evenly."""
        return 0.5 if self.backward else 0.0

    @property
    def backward(self) -> bool:
        """Whether the backward direction takes part (the corrupted picture's frozen features are needed)."""
        return self.beta > 0


def phase(step: int, training: TrainingConfig, objective: ObjectiveConfig, adapter: bool, own_rates: bool = True) -> Phase:
    """The phase of a step, 0 <= step < training.steps.

    The first part is forward only, then beta ramps in linearly, then both directions run; in the last part the teacher is
    frozen and the student runs at a tenth of its rate. Rates warm up linearly and fall by a half cosine to a tenth.
    Without ``own_rates``, where a scheduler of the user's sets the peak, the factors are the balance alone.
    """
    total = training.steps
    begin, end = round(training.forward_only * total), round((1 - training.teacher_frozen) * total)
    ramp = round(training.ramp * total)
    if step >= end:
        return Phase("frozen", 0.0, 0.1 if own_rates else 1.0, 0.0)
    warm = min(1.0, (step + 1) / max(1.0, training.warmup * total)) if own_rates else 1.0
    cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / end)) if own_rates else 1.0
    if not adapter or objective.beta == 0 or step < begin:
        return Phase("forward", 0.0, warm * cosine, 0.0, head=step >= begin)
    ramping = step < begin + ramp
    beta = objective.beta * ((step - begin + 1) / (ramp + 1) if ramping else 1.0)
    larger = max(beta, 1 - beta)
    student, teacher = warm * cosine * (1 - beta) / larger, cosine * beta / larger
    return Phase("ramp" if ramping else "both", beta, student, teacher)
