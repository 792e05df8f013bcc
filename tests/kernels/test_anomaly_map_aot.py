"""Machine code of the anomaly map kernels, compiled ahead of time: no spills, registers within limits, wide loads."""

import re
from typing import Any

import pytest
import torch
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED
from bikd_kernels.reference.anomaly_map import MapSpec

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

import triton
from aot import build, resources
from bikd_kernels import map_kernels, map_launch

RESNET18 = ((64, 64, 64), (128, 32, 32), (256, 16, 16))
WIDE_RESNET50 = ((256, 64, 64), (512, 32, 32), (1024, 16, 16))

# Registers a thread may take; a change that needs more must be looked at, then written down here.
MAP_REGISTERS = {"sm_80": 248, "sm_90": 200, "sm_100": 200}
NCHW, NHWC, MIXED = (False, False), (True, True), (False, True)


def map_kernels_of(
    arch: str, size: tuple[int, int] = (256, 256), combine: Any = "sum", write: bool = True, keep: int = 0,
    shapes=RESNET18,
) -> list[Any]:
    spec = MapSpec(tuple(s[1:] for s in shapes), size, (1.0,) * len(shapes), combine, 4.0, False, "reflect")
    pointers = dict(D="*fp32", ROWS="*fp32", COLUMNS="*fp32", STARTS="*i32", OUT="*fp32", SCORE="*fp32")
    return [
        build(map_kernels.map_kernel, pointers, dict(
            LEVELS=plan.levels, TOTAL=plan.total, H=size[0], W=size[1], BM=plan.block[0], BN=plan.block[1],
            CHUNK=map_launch.CHUNK, PRODUCT=plan.product, WRITE=write, KEEP=keep,
            PRECISION="tf32x3" if arch.startswith("sm") else "ieee",
            AHEAD=keep == 0 and write and map_launch.asks_ahead(plan),
        ), arch)
        for plan in map_launch.plans(spec, torch.device("cpu"))
    ]


PLAIN, PRODUCT, TOPK = dict(), dict(combine="product"), dict(keep=128)
LARGE, ODD = dict(size=(512, 512), shapes=((8, 128, 128), (8, 64, 64))), dict(size=(50, 33))


@pytest.mark.parametrize(("arch", "options"), [
    *((arch, options) for arch in MAP_REGISTERS for options in (PLAIN, PRODUCT)),
    ("sm_90", dict(write=False)), ("sm_90", LARGE), ("sm_90", ODD), ("sm_80", ODD), ("sm_90", TOPK),
])
def test_map_kernel_stays_in_registers(arch: str, options: dict[str, Any]) -> None:
    for compiled in map_kernels_of(arch, **options):
        registers, spilled = resources(compiled)
        assert spilled == 0
        assert registers <= MAP_REGISTERS[arch]
        assert compiled.metadata.shared <= 48 * 1024


def test_map_kernel_uses_the_tensor_cores() -> None:
    assert "mma.sync" in map_kernels_of("sm_80")[0].asm["ptx"]
    assert "wgmma" in map_kernels_of("sm_90")[0].asm["ptx"]
    assert "tcgen05.mma" in map_kernels_of("sm_100")[0].asm["ptx"]


@pytest.mark.skipif("amd" not in triton.backends.backends, reason="this triton has no AMD backend")
def test_map_kernel_compiles_for_amd_without_spills() -> None:
    for compiled in map_kernels_of("gfx942"):
        text = compiled.asm["amdgcn"]
        assert re.search(r"\.vgpr_spill_count:\s+0\b", text)
        assert re.search(r"\.private_segment_fixed_size:\s+0\b", text)


@pytest.mark.parametrize(("arch", "dtype", "last"), [
    *(("sm_90", dtype, last) for dtype in ("bf16", "fp16", "fp32") for last in (NCHW, NHWC, MIXED)),
    *((arch, dtype, last) for arch in ("sm_80", "sm_100") for dtype, last in (("bf16", NHWC), ("fp32", NCHW), ("bf16", MIXED))),
])
def test_discrepancy_kernel_stays_in_registers(arch: str, dtype: str, last: tuple[bool, bool]) -> None:
    formats = [torch.channels_last if x else torch.contiguous_format for x in last]
    for shapes in (RESNET18, WIDE_RESNET50) if arch == "sm_90" else (WIDE_RESNET50,):
        teacher, student = ([torch.empty(2, *s).contiguous(memory_format=f) for s in shapes] for f in formats)
        _, _, levels, _ = map_launch.discrepancy_levels(teacher, student)
        total = sum(h * w for _, h, w in shapes)
        kinds = dict(TEACHER=("*" + dtype,) * 3, STUDENT=("*" + dtype,) * 3, OUT="*fp32", SCORE="*fp32", BATCH="i32")
        constants = dict(LEVELS=levels, TOTAL=total, START_SCORE=True, EPS=1e-8)
        compiled = build(map_kernels.discrepancy_kernel, kinds, constants, arch)
        registers, spilled = resources(compiled)
        assert spilled == 0
        assert registers <= {MIXED: 168, NCHW: 144, NHWC: 128}[last]  # NCHW: for two warps
        loads = re.findall(r"ld\.global[^\s]*", compiled.asm["ptx"])
        assert loads
        if last[0] == last[1]:  # one of two layouts that differ is read across its grain
            assert all(".v4.b32" in load for load in loads), set(loads)
