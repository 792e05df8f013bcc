"""The frozen backbone: levels, folding, weights from every source, errors."""

import argparse

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from bikd_fast.models.backbone import Backbone
from bikd_fast.models.weights import WeightsError


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("tf_efficientnet_lite0", (24, 40, 112)),
        ("resnet18", (64, 128, 256)),
        ("dla46_c", (64, 64, 128)),  # timm numbers its levels, and those of the next, from 1
        ("tresnet_m", (64, 128, 1024)),
    ],
)
def test_levels_have_the_strides_asked_for(name, channels):
    backbone = Backbone(name)
    assert backbone.channels == channels and backbone.strides == (4, 8, 16)
    levels = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape) for f in levels] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16))]


@pytest.mark.parametrize(
    ("name", "left"),
    [("tf_efficientnet_lite0", 0), ("resnet18", 0), ("repvit_m0_9", 20)],  # a sum of branches keeps its norm: one in each block
)
def test_folding_keeps_the_function(name, left):
    torch.manual_seed(0)
    backbone = Backbone(name)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as of a trained network, not the identity
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    x = torch.rand(2, 3, 64, 64)
    before = backbone(x)
    backbone.fold()
    for a, b in zip(before, backbone(x)):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules()) == left


def test_what_attention_keeps_of_its_weights_is_forgotten_before_they_are_loaded():
    backbone = Backbone("levit_128s", strides=(16, 32), image_size=64)
    kept = [m.attention_bias_cache for m in backbone.modules() if hasattr(m, "attention_bias_cache")]
    assert kept and not any(kept) and not any(m.training for m in backbone.modules())


def test_stays_frozen_and_in_eval_mode():
    backbone = Backbone("resnet18").train()
    assert not backbone.training and not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())


def test_offline_weights_are_the_trained_ones():
    """The package's tensors land on the right layers: the whole classifier recognises a cup of coffee."""
    import skimage.data

    from bikd_fast.models.weights import _offline_state

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = _offline_state(net, "tf_efficientnet_lite0")
    net.load_state_dict(state, strict=False)
    picture = Image.fromarray(skimage.data.coffee()).resize((224, 224))
    x = torch.from_numpy(__import__("numpy").array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        top = net(x).topk(5).indices[0].tolist()
    assert 967 in top  # ImageNet's espresso


@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_an_older_name_of_a_network_is_the_same_network(monkeypatch):
    """timm maps vit_tiny_patch16_224_in21k to a network whose pictures are scaled by .5, not by ImageNet's figures."""
    asked = []
    monkeypatch.setattr("timm.models.load_state_dict_from_hf", lambda source, **_: asked.append(source) or {})
    older, newer = (Backbone(f"vit_tiny_patch16_224{name}", image_size=64) for name in ("_in21k", ".augreg_in21k"))
    assert torch.equal(older.std, newer.std) and older.std.flatten().tolist() == [0.5] * 3
    for one in (older, newer):
        with pytest.raises(WeightsError, match="does not fit"):  # what the stand-in for the hub gives is empty
            one.load("hub")
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k"] * 2


def test_vision_transformers_give_three_levels_of_one_stride():
    backbone = Backbone("vit_tiny_patch16_224", image_size=64)
    assert backbone.strides == (16, 16, 16)
    assert len(backbone.net.model.blocks) == 9  # levels after blocks 4, 7 and 9 of twelve: spread over the depth
    assert [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 64))] == [(1, 192, 4, 4)] * 3


@pytest.mark.parametrize("strides", [(8, 16), (16,), [16, 16]])
def test_strides_of_a_vision_transformer_cannot_be_chosen(strides):
    with pytest.raises(WeightsError, match=r"every block of test_vit has stride 16; .* not \[.*16\]\. Leave model\.strides out"):
        Backbone("test_vit", strides=strides, image_size=64)
    for same in ((4, 8, 16), [16, 16, 16]):
        assert Backbone("test_vit", strides=same, image_size=64).strides == (16, 16, 16)


def test_levels_with_the_channels_last_are_turned():
    backbone = Backbone("swin_tiny_patch4_window7_224", image_size=64)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    levels = backbone(pictures)
    assert [tuple(f.shape) for f in levels] == [(2, 96, 16, 16), (2, 192, 8, 8), (2, 384, 4, 4)]
    assert backbone.channels == (96, 192, 384) and all(f.is_contiguous(memory_format=torch.channels_last) for f in levels)
    theirs = backbone.net(backbone.normalise(pictures))
    assert torch.equal(levels[0][:, 5, 3, 2], theirs[0][:, 3, 2, 5])


def test_a_size_that_a_transformer_cannot_read():
    with pytest.raises(WeightsError, match=r"maxvit_tiny_rw_224 cannot read pictures of 80 pixels .* data.image_size to 224"):
        Backbone("maxvit_tiny_rw_224", image_size=80)


def test_a_size_that_other_windows_cannot_read():
    """Halo attention takes any picture of whole blocks, so timm names no fixed size; 96 pixels are six positions of sixteen."""
    with pytest.raises(WeightsError, match=r"halonet26t cannot read pictures of 96 pixels"):
        Backbone("halonet26t", image_size=96)


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4"])
def test_levels_that_are_not_picture_by_stride(name):
    with pytest.raises(WeightsError, match=rf"{name}'s level at stride 4 has the shape .* pictures of 128 pixels; students make"):
        Backbone(name)


@pytest.mark.parametrize("error", [AssertionError(), AttributeError("feature_info"), TypeError("features_only"), IndexError("4")])
def test_a_model_without_features(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(WeightsError, match=rf"no feature extractor 'resnet18' \({str(error) or 'AssertionError'}\)"):
        Backbone("resnet18")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    torch.manual_seed(1)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    loaded = Backbone("resnet18").load(str(path))
    x = torch.rand(1, 3, 64, 64)
    torch.manual_seed(1)
    same = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3)).eval()
    same.load_state_dict(state, strict=False)
    for a, b in zip(loaded(x), same(loaded.normalise(x))):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_file_that_holds_code_is_refused_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        Backbone("resnet18").load(str(tmp_path / "evil.pth"))
    assert not marker.exists()


def test_what_a_file_holds_beside_tensors_is_named_in_one_line(tmp_path):
    """A checkpoint of timm's own training holds its options; torch's refusal advises to execute the file."""
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "last.pth")
    with pytest.raises(WeightsError, match=r"last\.pth .* \(it holds argparse\.Namespace beside tensors\)") as refused:
        Backbone("resnet18").load(str(tmp_path / "last.pth"))
    assert "\n" not in str(refused.value) and "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "said"), [("missing.safetensors", "no file missing"), ("offline", "offline weights exist for tf_efficientnet_lite0")]
)
def test_errors_name_the_source(source, said):
    with pytest.raises(WeightsError, match=said):
        Backbone("resnet18").load(source)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "r34.safetensors")
    Backbone("resnet34").load(str(tmp_path / "r34.safetensors"))
    with pytest.raises(WeightsError, match="does not fit wide_resnet50_2"):
        Backbone("wide_resnet50_2").load(str(tmp_path / "r34.safetensors"))


def test_an_unreachable_hub_names_the_two_other_ways(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models.load_state_dict_from_hf", refuse)
    with pytest.raises(WeightsError, match=r"--model\.weights FILE.*--model\.teacher tf_efficientnet_lite0"):
        Backbone("resnet18").load("hub")


@pytest.mark.parametrize(
    ("name", "close"),
    [("resnet18x", "resnet18"), ("ResNet18", "resnet18"), ("wideresnet50", "wide_resnet50_2"), ("swin", "swin_s3_base_224")],
)
def test_an_unknown_backbone_names_close_ones(name, close):
    with pytest.raises(WeightsError, match=rf"Close names: .*\b{close}[,;]"):
        Backbone(name)


def test_a_stride_that_does_not_exist():
    with pytest.raises(WeightsError, match=r"model\.strides"):
        Backbone("resnet18", strides=(4, 8, 64))


def test_levels_at_other_strides_than_asked_for_are_refused(monkeypatch):
    made = timm.create_model

    def others(name, out_indices=None, **rest):
        return made(name, out_indices=(0, 1, 2) if out_indices else (0, 1, 2, 3, 4), **rest)

    monkeypatch.setattr("timm.create_model", others)
    with pytest.raises(WeightsError, match=r"model\.strides: resnet18 gives levels at strides \[2, 4, 8\] for \[4, 8, 16\]"):
        Backbone("resnet18", image_size=64)


def test_a_transformers_weights_load_at_another_resolution(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "vit.safetensors")
    same = Backbone("vit_tiny_patch16_224", image_size=224).load(str(tmp_path / "vit.safetensors"))
    assert torch.equal(same.net.model.blocks[3].attn.qkv.weight, whole.blocks[3].attn.qkv.weight)
    assert torch.equal(same.net.model.pos_embed, whole.pos_embed)
    small = Backbone("vit_tiny_patch16_224", image_size=64).load(str(tmp_path / "vit.safetensors"))
    assert small.net.model.pos_embed.shape == (1, 1 + 16, 192)
    assert torch.isfinite(small(torch.rand(1, 3, 64, 64))[0]).all()


def test_positions_without_one_for_the_class_token_are_resampled_too(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("deit3_small_patch16_224", pretrained=False)
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "deit3.safetensors")
    small = Backbone("deit3_small_patch16_224", image_size=64).load(str(tmp_path / "deit3.safetensors"))
    assert torch.equal(small.net.model.pos_embed, resample_abs_pos_embed(whole.pos_embed, [4, 4], num_prefix_tokens=0))


@pytest.mark.parametrize(
    ("name", "kind"), [("volo_d1_224", "model.pos_embed"), ("coatnet_nano_rw_224", "relative_position_bias_table")]
)
def test_a_size_that_the_weights_were_not_made_for(tmp_path, name, kind):
    whole = timm.create_model(name, pretrained=False)
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "whole.safetensors")
    with pytest.raises(WeightsError, match=rf"does not fit {name}: .*{kind}.* or set data\.image_size to 224"):
        Backbone(name, image_size=64).load(str(tmp_path / "whole.safetensors"))


def test_levels_come_finest_first_however_they_are_named():
    assert Backbone("resnet18", strides=(16, 4)).strides == (4, 16)
