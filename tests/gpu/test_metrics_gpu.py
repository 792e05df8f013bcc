"""Evaluation of maps that live on a GPU: the CPU's result, bit for bit, without the maps leaving the device."""

from __future__ import annotations

import json

import pytest
import torch

from bikd_fast.metrics import StreamingEvaluation, evaluate, to_json

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU: evaluation on the device is NOT tested here"
    ),
]


def make_case(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    masks[n // 3 :, size // 4 : size // 2, size // 8 : size // 3] = 1
    maps = torch.randn(n, size, size, generator=generator) + masks
    return maps, masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masks_there", [False, True])
def test_same_bits_as_on_the_cpu(dtype: torch.dtype, masks_there: bool) -> None:
    maps, masks = make_case(9, 96)
    maps = maps.to(dtype)
    maps[0, 0, :4] = torch.tensor([float("inf"), float("-inf"), 0.0, -0.0])
    there = evaluate(maps.cuda(), masks.cuda() if masks_there else masks, aupimo=True, curves=50)
    assert to_json(there) == to_json(evaluate(maps, masks, aupimo=True, curves=50))


def test_resized_maps_have_the_same_bits() -> None:
    maps, masks = make_case(6, 130)
    maps = list(maps[:, :61, :47])
    assert to_json(evaluate([m.cuda() for m in maps], masks)) == to_json(evaluate(maps, masks))


def test_maps_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only anomalous scores, rungs and counts are copied to the host, and device memory grows by the working chunk."""
    maps, masks = make_case(64, 256)
    maps, masks = maps.cuda(), masks.cuda()
    copied: list[int] = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copied.append(self.numel()) or copy(self))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    evaluate(maps, masks, memory_mb=8)
    assert copied and max(copied) <= int(masks.sum())
    assert torch.cuda.max_memory_allocated() - before < maps.numel() * 4 + 64e6


def test_nan_on_the_device_is_named() -> None:
    maps, masks = make_case(6, 32)
    maps[5, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"maps\[5\] contains NaN"):
        evaluate(maps.cuda(), masks, scores=torch.zeros(6))


def test_streaming_takes_device_maps() -> None:
    maps, masks = make_case(6, 64)
    here, there = StreamingEvaluation(), StreamingEvaluation()
    here.add(maps, masks)
    there.add(maps.cuda(), masks.cuda())
    assert json.loads(to_json(there.result())) == json.loads(to_json(here.result()))
