"""The simulator on a GPU, where Triton kernels compute every pixel, against the CPU, where those near defects are computed."""

import pytest
import torch

from bikd_fast.simulation import SimulationConfig, Simulator, sample_keys
from bikd_fast.simulation.simulator import Simulated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: the kernels are NOT tested on one here"),
]


def pictures(count: int, size: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=g)
    return (torch.nn.functional.interpolate(coarse, size=size, mode="bilinear") * 255).byte()


def made(simulator: Simulator, pool: torch.Tensor, count: int, device: str) -> Simulated:
    index = torch.arange(count, device=device) % len(pool)
    return simulator(pool.to(device)[index].float() / 255, index, sample_keys(0, 0, torch.arange(count, device=device)))


@pytest.mark.parametrize("cleanup", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_as_on_the_cpu(cleanup: bool, masked: bool) -> None:
    pool, textures = pictures(6, 256, 0), pictures(3, 256, 1)
    foreground = torch.zeros(6, 256, 256, dtype=torch.bool)
    foreground[:, 40:200, 30:220] = True
    config = SimulationConfig(foreground=masked, cleanup=cleanup)
    there = Simulator(config, pool.cuda(), foreground.cuda() if masked else None, textures.cuda())
    here = Simulator(config, pool, foreground if masked else None, textures)
    on_gpu, on_cpu = made(there, pool, 64, "cuda"), made(here, pool, 64, "cpu")
    a, b = (x.mask.cpu().float().flatten(1) for x in (on_gpu, on_cpu))
    alike = (a * b).sum(1) / (a + b - a * b).sum(1).clamp(min=1)
    assert alike.median() > 0.999
    assert (alike > 0.97).float().mean() > 0.95  # a defect just seen or not quite may become a shift of brightness on one of them
    close = (on_gpu.corrupted.cpu() - on_cpu.corrupted).abs().amax(1).flatten(1)
    assert ((close > 2e-3).float().mean(1) < 2e-3).float().mean() > 0.95
    assert (on_gpu.nuisance.cpu() - on_cpu.nuisance).abs().max() < 1e-5
    assert torch.equal(on_gpu.kind.cpu(), on_cpu.kind)


def test_batches_do_not_matter_and_nothing_waits() -> None:
    pool = pictures(6, 256, 0)
    simulator = Simulator(SimulationConfig(foreground=False), pool.cuda())
    index = torch.arange(16, device="cuda") % 6
    images, keys = pool.cuda()[index].float() / 255, sample_keys(1, 2, torch.arange(16, device="cuda"))
    whole = simulator(images, index, keys)
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts = [simulator(images[i : i + 4], index[i : i + 4], keys[i : i + 4]) for i in range(0, 16, 4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name in ("corrupted", "mask", "nuisance", "kind"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name)), name
