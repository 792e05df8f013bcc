"""Optimizers by DeepSpeed's names, none of which needs a compiler; whatever else the JSON names is DeepSpeed's to build."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bikd_fast.config import ConfigError

Factory = Callable[[Any], torch.optim.Optimizer]


def factory(user: dict[str, Any], rate: float, stage: int) -> Factory | None:
    """What builds the optimizer from parameter groups; None where DeepSpeed has to, by the user's name for it.

    AdamW in torch's fused form without an ``optimizer`` in the JSON. With ``"params": {"torch_adam": false}`` Adam and AdamW
    are DeepSpeed's own compiled ones.

    Raises:
        ConfigError: LAMB or LARS at a ZeRO stage that flattens layers, or parameters the optimizer does not have.
    """
    named = user.get("optimizer")
    if named is None:
        return partial(torch.optim.AdamW, lr=rate, fused=True)
    kind, params = str(named.get("type", "")), dict(named.get("params", {}))
    if kind.lower() in ("lamb", "lars"):
        if stage > 0:
            raise ConfigError(
                f"deepspeed_config: optimizer {kind} needs the norm of every layer, and zero_optimization.stage {stage} flattens "
                "the layers into one: take stage 0, or AdamW."
            )
        import timm.optim

        return _checked(kind, getattr(timm.optim, kind.capitalize()), params, rate)
    if params.pop("torch_adam", True) and kind.lower() in ("adam", "adamw"):
        # DeepSpeed's "Adam" decays the AdamW way too, unless told otherwise
        decoupled = kind.lower() == "adamw" or params.pop("adam_w_mode", True)
        return _checked(kind, torch.optim.AdamW if decoupled else torch.optim.Adam, {"fused": True, **params}, rate)
    if kind.lower() == "sgd":
        return _checked(kind, torch.optim.SGD, {"fused": True, **params}, rate)
    return None


def _checked(kind: str, build: Callable[..., torch.optim.Optimizer], params: dict[str, Any], rate: float) -> Factory:
    params = {**params, "lr": rate}

    def make(groups: Any) -> torch.optim.Optimizer:
        try:
            return build(groups, **params | ({"betas": tuple(params["betas"])} if "betas" in params else {}))
        except TypeError as error:
            raise ConfigError(f"deepspeed_config: optimizer {kind}: {error}.") from error

    return make
