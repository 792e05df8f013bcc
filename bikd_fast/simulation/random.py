"""Counter-based randomness: every number is a pure function of (sample key, stream, counter).

So a sample looks the same whatever batch, rank or worker it is made in, and on the CPU as on a GPU. The hash is
SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) in int64 arithmetic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's >> keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 in which every input bit changes half of the output bits."""
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


def _stream(number: int) -> int:
    return _signed((number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % (1 << 64))


def random_bits(keys: Tensor, count: int, stream: int) -> Tensor:
    """(B, count) int64 with random bits for (B,) int64 keys; different streams are independent."""
    start = mix(keys + _stream(stream))
    counter = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64)
    return mix(start.unsqueeze(1) + counter * GOLDEN)


def _to_uniform(bits: Tensor) -> Tensor:
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


class Stream(NamedTuple):
    """A sequence of numbers of its own for every key, and how many of them are drawn. Streams of one program differ by number."""

    number: int
    length: int


class Numbers:
    """The first uniform numbers of several streams for (B,) int64 keys, hashed in one go: on small batches the calls cost
    more than the numbers."""

    def __init__(self, keys: Tensor, table: "Table") -> None:
        starts = mix(keys.unsqueeze(1) + table.streams)
        whole = _to_uniform(mix(starts.repeat_interleave(table.counts, dim=1, output_size=table.total) + table.counters))
        self.device = keys.device
        self.parts = dict(zip(table.parts, whole.split(table.sizes, dim=1)))


class Table:
    """Streams as constants on a device. Raises ValueError where two have one number: their numbers would be the same."""

    def __init__(self, streams: Sequence[Stream], device: torch.device) -> None:
        numbers, self.sizes = [s.number for s in streams], [s.length for s in streams]
        if len(set(numbers)) < len(streams):
            raise ValueError(f"streams need different numbers, got {numbers}")
        self.parts = tuple(streams)  # whole streams: whoever asks for another length than was hashed must not get this one
        self.total = sum(self.sizes)
        self.streams = torch.tensor([_stream(s) for s in numbers], device=device)
        self.counts = torch.tensor(self.sizes, device=device)
        self.counters = torch.cat([torch.arange(1, n + 1) for n in self.sizes]).to(device) * GOLDEN


def uniform(keys: Tensor | Numbers, stream: Stream) -> Tensor:
    """(B, stream.length) float32, uniform on the 2^24 multiples of 2^-24 in [0, 1).

    Raises KeyError for Numbers that were not hashed for this stream, of this length.
    """
    if isinstance(keys, Numbers):
        return keys.parts[stream]
    return _to_uniform(random_bits(keys, stream.length, stream.number))


def _mix_int(x: int) -> int:
    """mix for a Python integer, so that no scalar travels to the device."""
    x &= (1 << 64) - 1
    x = ((x ^ (x >> 30)) * (MIX_1 & ((1 << 64) - 1))) & ((1 << 64) - 1)
    x = ((x ^ (x >> 27)) * (MIX_2 & ((1 << 64) - 1))) & ((1 << 64) - 1)
    return x ^ (x >> 31)


def sample_keys(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Keys (B,) int64 for the samples `index` (B,) int64 in one epoch (or step) of a run with this seed."""
    return mix(index + _signed(_mix_int(_mix_int(seed) + epoch)))
