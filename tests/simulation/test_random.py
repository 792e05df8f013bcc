import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bikd_fast.simulation.random import (
    Numbers,
    Stream,
    Table,
    _mix_int,
    _signed,
    mix,
    random_bits,
    sample_keys,
    uniform,
)

int64 = st.integers(-(2**63), 2**63 - 1)


def splitmix64(state: int) -> int:
    """The published generator: next output after `state`."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_is_splitmix64() -> None:
    # first outputs for seed 0 as published with the reference implementation
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert int(mix(torch.tensor([_signed(0x9E3779B97F4A7C15)]))[0]) == _signed(0xE220A8397B1DCDAF)


@given(int64)
def test_tensor_and_integer_arithmetic_agree(x: int) -> None:
    assert int(mix(torch.tensor(x))) == _signed(_mix_int(x))


def test_uniform_is_uniform_and_streams_are_apart() -> None:
    keys = sample_keys(1, 2, torch.arange(4000))
    a, b = uniform(keys, Stream(0, 5)), uniform(keys, Stream(1, 5))
    assert a.dtype == torch.float32
    assert a.min() >= 0
    assert a.max() < 1
    histogram = torch.histc(a, bins=20, min=0, max=1) / a.numel()
    assert (histogram - 0.05).abs().max() < 0.006
    together = torch.corrcoef(torch.cat((a, b), 1).T)
    assert (together - torch.eye(10)).abs().max() < 0.07


def test_one_key_bit_changes_half_of_the_bits() -> None:
    keys = torch.arange(64, dtype=torch.int64)
    flipped = random_bits(keys, 8, 0) ^ random_bits(keys ^ 1, 8, 0)
    ones = sum(bin(v % 2**64).count("1") for v in flipped.flatten().tolist()) / flipped.numel()
    assert 30 < ones < 34


def test_a_row_depends_on_its_own_key_only() -> None:
    keys = sample_keys(0, 0, torch.arange(10))
    stream = Stream(3, 7)
    assert torch.equal(uniform(keys, stream)[4:6], uniform(keys[4:6], stream))
    assert torch.equal(uniform(keys, stream)[:, :4], uniform(keys, Stream(3, 4)))


def test_streams_hashed_together_are_the_same_and_have_different_numbers() -> None:
    keys, streams = sample_keys(0, 0, torch.arange(10)), (Stream(3, 7), Stream(9, 2))
    numbers = Numbers(keys, Table(streams, keys.device))
    assert all(torch.equal(uniform(numbers, s), uniform(keys, s)) for s in streams)
    with pytest.raises(ValueError, match="different numbers"):
        Table((Stream(3, 7), Stream(3, 2)), keys.device)
    for other in (Stream(3, 4), Stream(5, 7)):
        with pytest.raises(KeyError):
            uniform(numbers, other)


@given(int64, st.integers(0, 10**6))
def test_keys_differ_between_seeds_epochs_and_samples(seed: int, epoch: int) -> None:
    index = torch.arange(50)
    keys = torch.cat([sample_keys(s, e, index) for s in (seed, seed ^ 1) for e in (epoch, epoch + 1)])
    assert len(keys.unique()) == 200
