"""Batch normalisation inside the convolution before it: which pairs one pass shows to belong together, and their fold."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bikd_fast.models.lowered import note_activation

_READERS = "read_by"  # attribute of a tensor that an operator made in a watched pass: the operators that read it


class Pair(NamedTuple):
    """A convolution and the BatchNorm that reads it, as names inside the module at ``path``."""

    path: str
    conv: str
    norm: str


@dataclass(eq=False)
class _Operator:
    reads: set[int]
    read_by: list[_Operator] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Notes for every parameter, every buffer, and every tensor made from them which operators read it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.readers: dict[int, list[_Operator]] = {id(t): [] for t in chain(module.parameters(), module.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        operator = _Operator({id(t) for t in read})
        for tensor in read:
            self.of(tensor).append(operator)
        if isinstance(result, torch.Tensor) and id(result) not in self.readers:
            setattr(result, _READERS, operator.read_by)
        return result

    def of(self, tensor: torch.Tensor | None) -> list[_Operator]:
        """Who read ``tensor``; of one that nobody watches, a list that is thrown away."""
        return self.readers.get(id(tensor), getattr(tensor, _READERS, []))

    def joined(self, conv: nn.Module | None, norm: nn.Module | None) -> bool:
        """Whether ``conv`` ran once, ``norm`` ran once, and what the one gave was read by the other and by nothing else."""
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            return False
        made = self.of(conv.weight)
        return len(made) == 1 == len(self.of(norm.running_mean)) and made[0].read_by == self.of(norm.running_mean)


@torch.no_grad()
def watched(module: nn.Module, picture: torch.Tensor) -> tuple[list[torch.Tensor], list[Pair]]:
    """What ``module``, in eval mode, gives for ``picture``, and its neighbours that :func:`fold` may join.

    Being registered side by side does not make a pair: a norm may read the sum of several branches. Which operator reads which
    tensor depends on the structure alone, so a network finds the same pairs before and after it gets its weights.
    """
    watch = _Watch(module)
    with torch.autocast(picture.device.type, enabled=False), watch:  # a cast would stand between weights and convolution
        levels = list(module(picture))
    for level in levels:
        watch.of(level).append(_Operator({id(level)}))  # who called reads it too
    pairs = [
        Pair(path, first, second)
        for path, inner in module.named_modules()
        for first, second in pairwise(inner._modules)
        if watch.joined(inner._modules[first], inner._modules[second])
    ]
    return levels, pairs


def fold(module: nn.Module, pairs: list[Pair]) -> None:
    """Fold the norm of every pair into its convolution; in the norm's place stays its activation, or nothing."""
    for path, first, second in pairs:
        modules = module.get_submodule(path)._modules
        conv: Any = modules[first]
        norm: Any = modules[second]
        fused = modules[first] = fuse_conv_bn_eval(conv, norm)
        modules[second] = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
        if isinstance(norm, BatchNormAct2d):
            note_activation(fused, norm.act, second)
