"""simulate on the CPU against its rule."""

import contextlib

import numpy as np
import pytest
import torch
from bikd_kernels import nuisance, simulate
from simulate_cases import case, oracle
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [False, True])
def test_follows_its_rule(impl: str, dtype: torch.dtype, last: bool) -> None:
    arguments = case(dtype=dtype, last=last)
    corrupted, label = simulate(*arguments, impl=impl)
    expected, expected_label = oracle(arguments)
    assert 0.05 < expected_label.mean() < 0.6
    assert (label.numpy() == expected_label).all()
    assert corrupted.dtype == dtype
    np.testing.assert_allclose(corrupted.numpy(), expected, atol=1e-6)


def test_the_two_cpu_paths_agree_to_the_bit() -> None:
    for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
        arguments = case(seed=seed, dtype=dtype)
        for a, b in zip(simulate(*arguments), simulate(*arguments, impl="reference")):
            assert torch.equal(a, b)


def test_nothing_changes_where_nothing_is_labelled() -> None:
    arguments = case(batch=5)
    corrupted, label = simulate(*arguments)
    outside = ~label.unsqueeze(1).expand_as(corrupted)
    assert torch.equal(corrupted[outside], arguments[0][outside])
    assert torch.isfinite(corrupted).all()


def paint(shape: tuple[slice, ...], amount: float = 0.5, size: int = 32) -> torch.Tensor:
    """Label of a uniform change in one rectangle of a grey picture."""
    images = torch.full((1, 3, size, size), 0.4)
    depth = torch.full((1, size, size), -1.0)
    depth[(0, *shape)] = 2.0
    return simulate(images, images + amount, depth, torch.ones(1), torch.ones(1))[1][0]


def test_specks_go_thin_lines_stay() -> None:
    assert not paint((slice(8, 10), slice(8, 10))).any()
    line = paint((slice(8, 10), slice(5, 25)))
    assert line[8:10, 6:24].all()
    assert line.sum() <= 40
    assert paint((slice(8, 14), slice(8, 14))).sum() >= 32


@pytest.mark.parametrize(("levels", "labelled"), [(1.9, False), (2.1, True)])
def test_visible_means_more_than_two_levels_of_255(levels: float, labelled: bool) -> None:
    assert bool(paint((slice(4, 28), slice(4, 28)), amount=levels / 255).any()) is labelled


def test_a_half_visible_change_gets_a_whole_label() -> None:
    images = torch.full((1, 1, 48, 48), 0.4)
    g = torch.Generator().manual_seed(0)
    content = images + 0.3 * (torch.rand(images.shape, generator=g) < 0.6)
    depth = torch.full((1, 48, 48), -1.0)
    depth[:, 8:40, 8:40] = 3.0
    label = simulate(images, content, depth, torch.ones(1), torch.ones(1))[1]
    assert label[:, 10:38, 10:38].float().mean() > 0.98
    assert not label[depth < 0].any() or label[depth < 0].float().mean() < 0.01


def test_empty_batch_and_wrong_arguments() -> None:
    arguments = case(batch=1)
    corrupted, label = simulate(*(x[:0] for x in arguments))
    assert corrupted.shape == (0, 3, 40, 56)
    assert label.shape == (0, 40, 56)
    with pytest.raises(ValueError, match="depth must have shape"):
        simulate(arguments[0], arguments[1], arguments[2][:, :-1], arguments[3], arguments[4])
    with pytest.raises(ValueError, match="radius"):
        simulate(*arguments, radius=8)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_half_depth_is_computed_in_float32(impl: str) -> None:
    images, content, *others = case(size=(24, 24))
    halves = [x.bfloat16() for x in others]
    exact = simulate(images, content, *(x.float() for x in halves), impl=impl)
    for a, b in zip(simulate(images, content, *halves, impl=impl), exact):
        assert torch.equal(a, b)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_the_layout_is_that_of_the_pictures(impl: str) -> None:
    images, content, *others = case(size=(16, 24))
    expected = simulate(images, content, *others)[0]
    for seen in (images.contiguous(memory_format=torch.channels_last), images.transpose(2, 3).contiguous().transpose(2, 3),
                 torch.cat((images, images), 3)[..., :24], images):
        for shown in (content, content.contiguous(memory_format=torch.channels_last)):
            corrupted = simulate(seen, shown, *others, impl=impl)[0]
            assert corrupted.stride() == torch.empty_like(seen).stride() and torch.equal(corrupted, expected)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_shapes_alone(impl: str) -> None:
    """On meta tensors, and on fake ones, which claim to be on the CPU."""
    arguments = case(last=True, dtype=torch.bfloat16)
    mode = FakeTensorMode()
    for given, where in (([x.to("meta") for x in arguments], contextlib.nullcontext()),
                         ([mode.from_tensor(x) for x in arguments], mode)):
        with where:
            corrupted, label = simulate(*given, impl=impl)
        assert corrupted.dtype == torch.bfloat16 and corrupted.stride() == arguments[0].stride()
        assert label.shape == (3, 40, 56) and label.dtype == torch.bool


@pytest.mark.parametrize(("change", "message"), [
    (dict(visible=-1), "visible must be a finite number >= 0, got -1"), (dict(visible=float("nan")), "visible must be .* got nan"),
    (dict(visible=float("inf")), "visible must be .* got inf"), (dict(visible=None), "visible must be .* got None"),
    (dict(radius=2.5), "radius must be a whole number, got 2.5"), (dict(full=None), "full must be a whole number, got None"),
    (dict(speck="8"), "speck must be a whole number, got '8'"), (dict(feather=1.0), "feather must be a tensor, got float"),
    (dict(images=[torch.rand(3, 9, 9)]), "images must be a tensor, got list"),
    (dict(images=torch.rand(1, 0, 9, 9)), "images must be .* with C > 0"),
])  # fmt: skip
def test_wrong_options(change: dict, message: str) -> None:
    names = ("images", "content", "depth", "opacity", "feather")
    with pytest.raises(ValueError, match=message):
        simulate(**dict(zip(names, case(batch=1, size=(9, 9)))) | change)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_no_gradient_flows_back(impl: str) -> None:
    images, *others = case()
    corrupted, _ = simulate(images.requires_grad_(), *others, impl=impl)
    assert not corrupted.requires_grad
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    noisy = nuisance(x, torch.randn(500), torch.tensor([0, 7]), torch.tensor([[0.1, 0, 1, 0]] * 2), impl=impl)
    assert not noisy.requires_grad


def test_compiles_and_exports() -> None:
    arguments = case(batch=2, size=(16, 24))
    expected = simulate(*arguments)
    compiled = torch.compile(simulate, fullgraph=True, backend="aot_eager")(*arguments)

    class Step(torch.nn.Module):
        def forward(self, images, content, depth, opacity, feather):
            return simulate(images, content, depth, opacity, feather)

    exported = torch.export.export(Step(), arguments).module()(*arguments)
    for got in (compiled, exported):
        for a, b in zip(got, expected):
            assert torch.equal(a, b)
