"""The settings of a training that takes seconds: tiny pictures, a tiny student, a backbone without pretrained weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.config import RunConfig

TINY = ["--model.weights", "random", "--model.size", "0.125", "--data.image_size", "64", "--training.batch_size", "4"]


def one_category(root, output, *extra: str) -> RunConfig:
    """A run over the category ``stripes`` of the fixture ``tiny_mvtec``, in fp32."""
    options = ["--data.format", "mvtec", "--data.root", str(root), "--data.category", "stripes", "--training.precision", "fp32"]
    return parse_run(run_parser("test", ""), [*TINY, *options, "--output", str(output), *extra])


@contextmanager
def interrupted(before: int) -> Iterator[None]:
    """The training within comes to step ``before`` and no further: it ends there by KeyboardInterrupt, which is expected."""
    from bikd_fast.training.trainer import Trainer  # brings DeepSpeed, which not every test of these settings needs

    step = Trainer._step

    def stopping(self, now):
        if self.step == before:
            raise KeyboardInterrupt
        step(self, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield
