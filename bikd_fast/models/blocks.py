"""Building blocks of the students: residual convolutions whose normalisation carries no batch statistics."""

from __future__ import annotations

import torch
from torch import nn


def zero_initialised(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with weight and bias set to 0: a branch that ends in it starts as nothing."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position of a (B, C, H, W) map.

    It looks at one position only, so a defect in one corner of a picture cannot shift the features of another, and there
    are no batch statistics to keep equal across ranks. The permutations are views on a channels_last map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + conv3x3(act(conv3x3(x))), the last convolution zero-initialised so that a stack starts as the identity.

    There is no norm inside: the maps come from a normalised projection, the branch grows from nothing, and on a CPU two norms a
    stage would cost as much as a convolution. dilation: of the first convolution, in positions.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = zero_initialised(nn.Conv2d(channels, channels, 3, padding=1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.act(self.conv1(x)))


def downsample(in_channels: int, out_channels: int) -> nn.Module:
    """Halve the resolution: (B, in, H, W) -> (B, out, H/2, W/2)."""
    return nn.Sequential(ChannelNorm(in_channels), nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1))


def stage(channels: int, depth: int) -> nn.Module:
    """``depth`` residual blocks of one width."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))


class Upsample(nn.Module):
    """Project and bring a map to ``size``: 1x1 convolution, then bilinear resize: (B, in, h, w) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(ChannelNorm(in_channels), nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return nn.functional.interpolate(self.project(x), size=size, mode="bilinear", align_corners=False)
