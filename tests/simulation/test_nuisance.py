import torch
from conftest import texture_pool

from bikd_fast.simulation import SimulationConfig, Simulator, sample_keys
from bikd_fast.simulation.nuisance import BLUR, LIGHT, NOISE, add_nuisance, noise_bank

CPU = torch.device("cpu")


def test_stays_small_and_normalised() -> None:
    images = texture_pool(200).float() / 255
    noisy = add_nuisance(images, sample_keys(0, 0, torch.arange(200)), 1.0, noise_bank(64, CPU))
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    shift = (noisy - images).mean((1, 2, 3))
    assert shift.abs().max() <= 1.5 * LIGHT
    assert shift.abs().max() > 0.6 * LIGHT
    assert shift.mean().abs() < 0.01


def test_noise_has_the_drawn_deviation_and_differs_between_samples() -> None:
    images = torch.full((100, 3, 64, 64), 0.5)
    noisy = add_nuisance(images, sample_keys(0, 0, torch.arange(100)), 1.0, noise_bank(64, CPU))
    sigma = (noisy - noisy.mean((1, 2, 3), keepdim=True)).flatten(1).std(1)
    assert sigma.min() < 0.1 * NOISE
    assert 0.85 * NOISE < sigma.max() < 1.1 * NOISE
    strong = noisy[sigma > 0.3 * NOISE].flatten(1)
    assert (torch.corrcoef(strong) - torch.eye(len(strong))).abs().max() < 0.1


def test_blur_keeps_the_mean_and_never_more_than_its_share() -> None:
    images = (torch.rand(60, 3, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.5).float() * 0.4 + 0.3
    bank = torch.zeros_like(noise_bank(64, CPU))
    noisy = add_nuisance(images, sample_keys(0, 0, torch.arange(60)), 1.0, bank)
    kept = noisy.flatten(1).std(1) / images.flatten(1).std(1)
    assert kept.max() > 0.97 * (1 - LIGHT)
    assert kept.min() > (1 - BLUR) * (1 - LIGHT) - 0.05
    assert kept.min() < 0.7
    flat = torch.full((60, 3, 64, 64), 0.5)
    smooth = add_nuisance(flat, sample_keys(0, 0, torch.arange(60)), 1.0, bank)
    assert smooth.flatten(1).std(1).max() < 1e-6  # the edges too


def test_strength_zero_is_off() -> None:
    pool = texture_pool()
    images = pool.float() / 255
    simulator = Simulator(SimulationConfig(nuisance=0.0, foreground=False), pool)
    index = torch.arange(6)
    assert torch.equal(simulator(images, index, sample_keys(0, 0, index)).nuisance, images)
    weak = add_nuisance(images, sample_keys(0, 0, index), 0.1, noise_bank(64, CPU))
    assert 0 < (weak - images).abs().mean() < 0.01


def test_the_strongest_that_settings_allow_blurs_by_the_neighbours_alone() -> None:
    """At 4 some pictures have nothing of their own left, which a form that divides by that share cannot make."""
    images, keys = texture_pool(64).float() / 255, sample_keys(0, 0, torch.arange(64))
    bank = noise_bank(64, CPU)
    together = add_nuisance(images, keys, 4.0, bank)
    assert together.isfinite().all() and together.min() >= 0 and together.max() <= 1
    flat = torch.full((64, 3, 64, 64), 0.5)
    noisy = add_nuisance(flat, keys, 4.0, torch.zeros_like(bank))
    assert (noisy - noisy.mean((1, 2, 3), keepdim=True)).abs().max() < 1e-6
