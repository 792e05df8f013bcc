"""training.compile: the student is traced, and its training is the same. benchmarks/compiled.py does it with generated code."""

import json

import pytest
from tiny import one_category
from torch import nn

from bikd_fast.training import distributed
from bikd_fast.training.run import train


def test_the_compiled_student_has_the_same_losses(tiny_mvtec, tmp_path, monkeypatch):
    compile_module, compiled = nn.Module.compile, []

    def without_code(self):  # generating and building C++ takes a minute
        compiled.append(type(self).__name__)
        return compile_module(self, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", without_code)
    ranks, losses = distributed.start(), {}
    for choice in ("false", "true"):
        words = ("--training.steps", "4", "--training.forward_only", "0.3", "--training.log_every", "1")
        run = train(one_category(tiny_mvtec, tmp_path / choice, *words, "--training.compile", choice), ranks)
        losses[choice] = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    distributed.stop()
    assert len(compiled) == 1 and len(set(losses["false"])) == 4
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-5)
