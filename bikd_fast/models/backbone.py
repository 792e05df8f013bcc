"""The frozen backbone E: any timm feature extractor, its levels, its preprocessing, eval mode for ever."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import nn

from bikd_fast.models.folding import Pair, fold, watched
from bikd_fast.models.weights import WeightsError, config_of, load_weights

DEFAULT_STRIDES = (4, 8, 16)
_TRIED = 128  # pictures whose sides differ by a multiple of this are alike to convolutions and windows: the smaller one is tried
# what timm's networks raise where they have no features or cannot read a picture, often from an assertion or a layer of torch
_REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Backbone(nn.Module):
    """Frozen multi-level feature extractor.

    ``forward`` takes pictures (B, 3, H, W) in [0, 1] and returns one map (B, C_k, H_k, W_k) a level, finest first.

    Args:
        pool: side of the window that every level is averaged over, in positions; 1 is none. The average of a stochastic texture's
            features can be predicted where the features themselves cannot.

    Attributes:
        channels, strides: of the levels, finest first.

    Batch normalisation is folded into the convolutions that it reads: the network never trains again, and on a CPU the folded
    form of efficientnet_lite0 takes two thirds of the time.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, name: str, strides: Sequence[int] = DEFAULT_STRIDES, image_size: int = 256, pool: int = 1
    ) -> None:
        super().__init__()
        self.name, self.pool = name, pool
        self.net = _create(name, strides, image_size)
        self.channels_at_the_end = getattr(self.net, "output_fmt", None) == Format.NHWC  # Swin and its kin
        info: Any = self.net.feature_info
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.strides: tuple[int, ...] = tuple(info.reduction())
        config = config_of(name)
        mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)
        self.pairs = self._tried(image_size)

    def _tried(self, image_size: int) -> list[Pair]:
        """One pass over a picture of zeros: refuses levels of other sizes than students have, returns which norms can be folded."""
        config = config_of(self.name)
        laid_out = len(set(self.strides)) == 1 or (config is not None and config.fixed_input_size)
        side = image_size if laid_out else min(image_size, _TRIED + image_size % _TRIED)
        try:
            levels, pairs = watched(self, torch.zeros(1, 3, side, side))
        except _REFUSALS as error:
            raise _unreadable(self.name, image_size, error) from error
        for level, channels, stride in zip(levels, self.channels, self.strides):
            found, wanted = tuple(level.shape[1:]), (channels, side // stride, side // stride)
            if found != wanted:
                raise WeightsError(
                    f"model.teacher: {self.name}'s level at stride {stride} has the shape {found} for pictures of {side} pixels; "
                    f"students make {wanted}. Take another teacher, or leave this level out of model.strides."
                )
        self.net.train()  # timm's attentions keep biases computed in eval mode; training forgets them, before weights are loaded
        self.eval()
        return pairs

    def load(self, source: str) -> Backbone:
        """Load pretrained weights (see :func:`bikd_fast.models.weights.load_weights`) and fold the normalisation."""
        load_weights(self.net, self.name, source)
        return self.fold()

    def fold(self) -> Backbone:
        """Fold every BatchNorm that reads a convolution into it; idempotent. Tensors' names change, so fold before saving."""
        fold(self, self.pairs)
        self.pairs = []
        self.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode whatever is asked: its statistics are the teacher's knowledge."""
        return super().train(False)

    def numbers(self, size: int) -> int:
        """How many features a picture of ``size`` x ``size`` pixels has, all levels together."""
        return sum(c * (size // s) ** 2 for c, s in zip(self.channels, self.strides))

    def normalise(self, pictures: torch.Tensor) -> torch.Tensor:
        """[0, 1] pictures to the scale that the backbone was trained on."""
        return (pictures - self.mean) / self.std

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        levels = self.net(self.normalise(pictures))
        if self.channels_at_the_end:
            levels = [f.permute(0, 3, 1, 2) for f in levels]  # channels_last in memory, as the kernels like it
        if self.pool > 1:
            levels = [F.avg_pool2d(f, self.pool, 1, self.pool // 2, count_include_pad=False) for f in levels]
        return list(levels)


def _create(name: str, strides: Sequence[int], image_size: int) -> nn.Module:
    """A timm features_only network whose levels have the wanted strides, or three spread levels where all have one stride."""
    info = _extractor(name).feature_info
    reductions = info.reduction()
    if any(r & (r - 1) for r in reductions):
        raise WeightsError(f"model.teacher: {name} has levels at strides {reductions}; students need powers of two. Take another.")
    if len(set(reductions)) == 1:  # a vision transformer: every block has the same stride, so depth takes the place of scale
        whole: Any = timm.create_model(name, pretrained=False)  # the extractor by itself tells only of its last few blocks
        last = len(whole.feature_info) - 1
        indices = tuple(sorted({max(0, round(last * f)) for f in (0.25, 0.5, 0.75)}))
        if tuple(strides) not in (DEFAULT_STRIDES, (reductions[0],) * len(indices)):  # the default is what leaving them out gives
            raise WeightsError(
                f"model.strides: every block of {name} has stride {reductions[0]}; its levels are the blocks at a quarter, a half "
                f"and three quarters of its depth, not {list(strides)}. Leave model.strides out."
            )
        return _extractor(name, out_indices=indices, img_size=image_size)
    strides = sorted(strides)
    missing = [s for s in strides if s not in reductions]
    if missing:
        raise WeightsError(f"model.strides: {name} has levels at strides {reductions}, not at {missing}. Choose among those.")
    indices = tuple(info.out_indices[reductions.index(s)] for s in strides)  # timm's numbers, which need not begin at 0
    config = config_of(name)
    size = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    net = _extractor(name, out_indices=indices, **size)
    given = list(net.feature_info.reduction())
    if given != strides:
        raise WeightsError(f"model.strides: {name} gives levels at strides {given} for {strides}. Choose others.")
    return net


def _extractor(name: str, **wanted: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=False, features_only=True, **wanted)
    except _REFUSALS as error:
        if "img_size" in wanted:
            raise _unreadable(name, wanted["img_size"], error) from error
        close = get_close_matches(name, timm.list_models(), n=8) or timm.list_models(f"*{name.split('_')[0]}*")[:8]
        raise WeightsError(
            f"model.teacher: timm has no feature extractor {name!r} ({_reason(error)}). Close names: {', '.join(close) or 'none'}; "
            "`timm.list_models()` lists all."
        ) from error


def _unreadable(name: str, image_size: int, error: Exception) -> WeightsError:
    config = config_of(name)
    usual = config.input_size[-1] if config is not None else None
    made = f"it was made for {usual}. Set data.image_size to {usual}, or take" if usual else "take"
    return WeightsError(
        f"model.teacher: {name} cannot read pictures of {image_size} pixels ({_reason(error)}); {made} another teacher."
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]  # many an assertion says nothing
