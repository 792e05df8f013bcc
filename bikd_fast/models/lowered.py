"""The frozen backbone as a CPU likes it: bfloat16 weights, and each activation computed inside the convolution before it.

Under autocast every convolution casts its weights anew and every activation is a pass over memory by itself; with
efficientnet_lite0 that is a third of the time. oneDNN does both inside the convolution; the results are the same bits.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
_INSIDE: dict[type[nn.Module], tuple[str, list[float]]] = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}
_FOLLOWS = "activation_after"  # attribute of a convolution: the name of the activation that reads it, and nothing else does


def note_activation(conv: nn.Conv2d, act: nn.Module, name: str) -> None:
    """Remember that ``act``, a sibling module called ``name``, is applied to what ``conv`` gives."""
    if type(act) in _INSIDE:
        setattr(conv, _FOLLOWS, name)


def lowered(backbone: Network) -> Network:
    """A copy for inference in bfloat16 on a CPU, to be called under autocast; the backbone itself where oneDNN is missing.

    Takes what the backbone takes; its levels are the same to the last bit.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise") or not torch.backends.mkldnn.is_available():
        return backbone
    result = copy.deepcopy(backbone)
    _lower(result)
    return result.requires_grad_(False)


def _lower(module: nn.Module) -> None:
    for inner in module.children():
        _lower(inner)
    for name, child in list(module._modules.items()):
        if child is None or type(child) not in (nn.Conv2d, Conv2dSame):
            continue
        if child.padding_mode == "zeros" and child.padding != "same":
            follows = getattr(child, _FOLLOWS, None)
            act = module._modules[follows] if follows else None
            module._modules[name] = _Convolution(child, act)
            if follows:
                module._modules[follows] = nn.Identity()


class _Convolution(nn.Module):
    def __init__(self, conv: Any, act: nn.Module | None) -> None:
        super().__init__()
        self.same = isinstance(conv, Conv2dSame)
        self.kernel_size = conv.kernel_size  # DaViT pads by it
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.act = _INSIDE[type(act)] if act is not None else ("none", [])
        weight = conv.weight.detach().to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().to(torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.bfloat16)
        _, stride, dilation, _ = self.geometry
        if self.same:
            x = pad_same(x, self.kernel_size, stride, dilation)
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.geometry, *self.act, "")
