"""The simulator with its Triton kernels, as on a GPU, against the plain form; tests/kernels/test_interpreter.py starts it."""

import functools

import pytest
import torch
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED
from conftest import object_pool, texture_pool

from bikd_fast.simulation import SimulationConfig, Simulator, masks, nuisance, sample_keys, simulator

pytestmark = pytest.mark.skipif(not HAS_TRITON or not INTERPRETED, reason="needs TRITON_INTERPRET=1; tests/gpu has it on a GPU")


@pytest.mark.parametrize(("cleanup", "masked"), [(True, True), (False, False)])
def test_kernels_make_what_the_plain_form_makes(cleanup: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, truth = object_pool()
    made = Simulator(SimulationConfig(foreground=masked, cleanup=cleanup), pool, truth if masked else None, texture_pool(size=128))
    index = torch.arange(6) % len(pool)
    given = (pool[index].float() / 255, index, sample_keys(3, 0, torch.arange(6)))
    plain = made(*given)
    for module, name in ((simulator, "draw_defects"), (simulator, "simulate"), (masks, "lay_out"), (nuisance, "nuisance")):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), impl="triton"))
    made.compact = False
    kernels = made(*given)
    assert (kernels.mask != plain.mask).float().mean() < 1e-4
    assert ((kernels.corrupted - plain.corrupted).abs() > 1e-3).float().mean() < 1e-4
    assert (kernels.nuisance - plain.nuisance).abs().max() < 1e-5
    assert torch.equal(kernels.kind, plain.kind)
