"""The students: networks that learn to give the teacher's features of the *clean* picture, one map a level.

``image``    sees the picture (possibly corrupted); encoder and mirrored decoder without skip connections
             (DeSTSeg, arXiv 2211.11317).
``reverse``  sees the frozen features through a bottleneck (reverse distillation, RD4AD, arXiv 2201.10703).
``encoder``  sees the picture; an encoder of the backbone's own shape, no decoder (STPM, arXiv 2103.04257).

Further ones, each in a file of its own: ``dual``, ``relation``, ``inpainting``, and ``bank``, which remembers instead of learning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bikd_fast.models.blocks import ChannelNorm, Upsample, downsample, stage


def _round8(x: float) -> int:
    return max(8, round(x / 8) * 8)


class Student(nn.Module):
    """What all students share.

    Args:
        channels: of what it gives, level by level.

    Attributes:
        reads: ``image``, ``features`` (frozen ones), or ``both``.
        compares: whether its levels are compared with the teacher's (a memory gives a distance).
        channels: as above; their number is the number of levels that a map has.
    """

    reads = "image"
    compares = True

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)

    def targets(self, teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The teacher's levels [(B, C_k, H_k, W_k)] as this student is to give them, in the order of its own outputs."""
        return list(teacher)


class Decoder(nn.Module):
    """Coarse code -> one map a level, coarsest first inside, finest first outside.

    Args:
        code_channels: channels of the code.
        channels: the teacher's channels a level, finest level first.
        widths: channels inside the decoder a level, finest first.
        depth: residual blocks a level.
    """

    def __init__(self, code_channels: int, channels: Sequence[int], widths: Sequence[int], depth: int) -> None:
        super().__init__()
        incoming = [*widths[1:], code_channels]
        self.up = nn.ModuleList(Upsample(i, w) for i, w in zip(incoming, widths))
        self.stages = nn.ModuleList(stage(w, depth) for w in widths)
        self.heads = nn.ModuleList(nn.Sequential(ChannelNorm(w), nn.Conv2d(w, c, 1)) for w, c in zip(widths, channels))

    def forward(self, code: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        x = code
        for up, block, head, size in reversed(list(zip(self.up, self.stages, self.heads, sizes))):
            x = block(up(x, size))
            outputs.append(head(x))
        return outputs[::-1]


class ImageStudent(Student):
    """Encoder-decoder on the picture: (B, 3, H, W) normalised -> [(B, C_k, H_k, W_k)], finest level first.

    Args:
        channels, strides: the teacher's levels, finest first.
        size: multiplies the width of every layer; 1.0 is about 2.5 M parameters for three levels.
        planes: channels of what it sees.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 1, planes: int = 3
    ) -> None:
        super().__init__(channels)
        self.strides = tuple(strides)
        encoder_strides = _doubling(min(strides), max(strides))
        widths = _widths(encoder_strides, size)
        self.stem = _stem(widths[0], encoder_strides[0], planes)
        self.encoder = nn.Sequential(*_encoder(widths, depth))
        by_stride = dict(zip(encoder_strides, widths))
        self.decoder = Decoder(widths[-1], channels, [by_stride[s] for s in strides], depth)

    def forward(self, picture: torch.Tensor, features: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        height, width = picture.shape[-2:]
        sizes = [(height // s, width // s) for s in self.strides]
        return self.decoder(self.encoder(self.stem(picture)), sizes)


class EncoderStudent(Student):
    """Encoder only on the picture: every level is read off on the way down, so fine detail passes."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 2) -> None:
        super().__init__(channels)
        encoder_strides = _doubling(min(strides), max(strides))
        widths = _widths(encoder_strides, size)
        self.stem = _stem(widths[0], encoder_strides[0])
        self.stages = nn.ModuleList(_encoder(widths, depth))
        self.level_stage = [encoder_strides.index(s) for s in strides]
        self.heads = nn.ModuleList(
            nn.Sequential(ChannelNorm(widths[i]), nn.Conv2d(widths[i], c, 1)) for i, c in zip(self.level_stage, channels)
        )

    def forward(self, picture: torch.Tensor, features: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        x, seen = self.stem(picture), []
        for block in self.stages:
            x = block(x)
            seen.append(x)
        return [head(seen[i]) for head, i in zip(self.heads, self.level_stage)]


class ReverseStudent(Student):
    """Bottleneck and decoder on the frozen features: [(B, C_k, H_k, W_k)] -> the same shapes.

    All levels are brought to the coarsest one by strided convolutions, concatenated and squeezed once more by a factor of two.
    """

    reads = "features"

    def __init__(self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 1) -> None:
        super().__init__(channels)
        coarsest = max(strides)
        width = _round8(128 * size)
        self.fuse = nn.ModuleList(_to_stride(c, width, coarsest // s) for c, s in zip(channels, strides))
        code = _round8(256 * size)
        self.squeeze = nn.Sequential(downsample(width * len(channels), code), stage(code, depth))
        widths = [_round8(64 * size * s / min(strides)) for s in strides]
        self.decoder = Decoder(code, channels, widths, depth)

    def forward(self, picture: torch.Tensor | None, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        code = torch.cat([fuse(f) for fuse, f in zip(self.fuse, features)], dim=1)
        return self.decoder(self.squeeze(code), [(f.shape[-2], f.shape[-1]) for f in features])


def _doubling(first: int, last: int) -> list[int]:
    """[first, 2 first, ..., last]: the strides an encoder passes through."""
    strides = [first]
    while strides[-1] < last:
        strides.append(strides[-1] * 2)
    return strides


def _widths(strides: Sequence[int], size: float) -> list[int]:
    """Channels at each stride of an encoder: doubled wherever the resolution halves."""
    return [_round8(64 * size * 2**i) for i in range(len(strides))]


def _encoder(widths: Sequence[int], depth: int) -> list[nn.Module]:
    """One stage a stride: the first at the stem's resolution, each further one at half that of the stage before."""
    first: list[nn.Module] = [stage(widths[0], depth)]
    return first + [nn.Sequential(downsample(narrow, wide), stage(wide, depth)) for narrow, wide in zip(widths, widths[1:])]


def _stem(width: int, stride: int, planes: int = 3) -> nn.Module:
    """(B, planes, H, W) -> (B, width, H/stride, W/stride) by stride-2 convolutions; by one of stride 1 for VGG's finest level."""
    if stride == 1:
        return nn.Conv2d(planes, width, 3, padding=1)
    layers: list[nn.Module] = []
    channels, narrow = planes, max(16, width // 2)
    while stride > 1:
        out = width if stride == 2 else narrow
        layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        channels, stride = out, stride // 2
    return nn.Sequential(*layers[:-1])


def _to_stride(in_channels: int, width: int, factor: int) -> nn.Module:
    """Bring a level down by ``factor`` (a power of two) with strided convolutions."""
    layers: list[nn.Module] = [ChannelNorm(in_channels), nn.Conv2d(in_channels, width, 1)]
    while factor > 1:
        layers += [nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, stride=2, padding=1)]
        factor //= 2
    return nn.Sequential(*layers)
