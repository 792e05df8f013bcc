"""How fast a step learns: the rates of student and teacher, by our own schedule or by the user's DeepSpeed scheduler."""

from __future__ import annotations

import warnings

from torch.optim.lr_scheduler import ReduceLROnPlateau

from bikd_fast.config import ConfigError, TrainingConfig
from bikd_fast.training.schedule import Phase
from bikd_fast.training.user_config import rate_factor


class Rates:
    """Sets the rates of an engine's parameter groups, at every step anew.

    A scheduler of the user's is taken out of DeepSpeed's hands: it goes by the number of the step alone, so that a step that was
    skipped or a run that was interrupted leaves it as it would be, and its rate is the student's. The teacher's stays at its share
    of it, balance included, and is 0 where the phase says so.

    Raises:
        ConfigError: a scheduler that waits for a metric, which training has none of.
    """

    def __init__(self, engine, training: TrainingConfig) -> None:
        self.training, self.groups = training, engine.optimizer.param_groups
        self.scheduler, engine.lr_scheduler = engine.lr_scheduler, None
        if isinstance(self.scheduler, ReduceLROnPlateau):
            raise ConfigError("deepspeed_config: scheduler.type: ReduceLROnPlateau waits for a metric; take one that counts steps.")
        self.done = 0
        self.scheduled = [group["lr"] for group in self.groups]

    @property
    def ours(self) -> bool:
        """Whether our own schedule sets the rates."""
        return self.scheduler is None

    def set(self, step: int, now: Phase) -> float:
        """Set the rates of ``step`` (not below that of the call before); returns the student's."""
        training = self.training
        # user_config.settle lets neither scaled rates nor a rate of 0 come here with a scheduler
        factor = rate_factor(training) if self.scheduler is None else self._peak(step) / training.lr_student
        rates = {"student": training.lr_student * now.student * factor, "teacher": training.lr_teacher * (now.teacher * factor)}
        for group in self.groups:
            group["lr"] = rates[group.get("part", "student")]
        return rates["student"]

    def _peak(self, step: int) -> float:
        for group, rate in zip(self.groups, self.scheduled):
            group["lr"] = rate  # some schedulers go on from what they find
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's wants an optimizer's step before each: not where a run goes on
            while self.done < step:
                self.scheduler.step()
                self.done += 1
        self.scheduled = [group["lr"] for group in self.groups]
        return self.scheduled[0]
