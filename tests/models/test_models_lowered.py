"""The backbone for bfloat16 on a CPU against the same backbone under autocast: the same bits, activations inside."""

import pytest
import torch
from torch import nn

from bikd_fast.models.backbone import Backbone
from bikd_fast.models.lowered import lowered


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "regnety_002", "vit_tiny_patch16_224", "davit_tiny"])
def test_the_same_bits_as_under_autocast(name):
    torch.manual_seed(0)
    backbone = Backbone(name, image_size=64)
    for buffer in (b for n, b in backbone.net.named_buffers() if n.endswith(("running_mean", "running_var"))):
        buffer.uniform_(0.5, 1.5)
    backbone.fold().to(memory_format=torch.channels_last)
    low = lowered(backbone)
    pictures = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for plain, fast in zip(backbone(pictures), low(pictures), strict=True):
            assert torch.equal(plain.bfloat16(), fast.bfloat16())


def test_activations_move_into_the_convolutions_of_the_copy_alone():
    backbone = Backbone("tf_efficientnet_lite0", image_size=64).fold()
    before = sum(isinstance(m, nn.ReLU6) for m in backbone.modules())
    low = lowered(backbone)
    assert before > 20 and sum(isinstance(m, nn.ReLU6) for m in low.modules()) == 0
    assert sum(isinstance(m, nn.ReLU6) for m in backbone.modules()) == before
    assert all(not p.requires_grad for p in low.parameters())


def test_a_residual_sum_keeps_its_activation_outside():
    """In a residual block the activation follows the sum, not the convolution that stands before it in the list."""
    low = lowered(Backbone("resnet18", image_size=64).fold())
    assert sum(isinstance(m, nn.ReLU) for m in low.modules()) >= 8
