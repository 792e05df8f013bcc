"""Machine code of the anomaly map kernels, compiled ahead of time: no spills, registers within limits, wide loads."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED
from bikd_kernels.reference.anomaly_map import MapSpec

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

import triton
from bikd_kernels import map_kernels, map_launch
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(nvidia.__file__).parent / "bin"
RESNET18 = ((64, 64, 64), (128, 32, 32), (256, 16, 16))
WIDE_RESNET50 = ((256, 64, 64), (512, 32, 32), (1024, 16, 16))

# Registers a thread may take; a change that needs more must be looked at, then written down here.
MAP_REGISTERS = {80: 248, 90: 200, 100: 200}
NCHW, NHWC, MIXED = (False, False), (True, True), (False, True)


def build(
    kernel: Any, pointers: dict[str, Any], constants: dict[str, Any], arch: int | str, scalars: tuple[str, ...] = ()
) -> Any:
    """Compile for one architecture; pointers are taken to be 16-byte aligned, as torch's allocations are."""
    signature = {**pointers, **dict.fromkeys(scalars, "i32"), **dict.fromkeys(constants, "constexpr")}
    aligned: dict[tuple[int, ...], Any] = {}
    for i, kind in enumerate(pointers.values()):
        places = [(i, j) for j in range(len(kind))] if isinstance(kind, tuple) else [(i,)]
        aligned |= {place: [["tt.divisibility", 16]] for place in places}
    source = ASTSource(kernel, signature, constants, attrs=aligned)
    target = GPUTarget("cuda", arch, 32) if isinstance(arch, int) else GPUTarget("hip", arch, 64)
    return triton.compile(source, target=target, options={"num_warps": 4})


def resources(compiled: Any, folder: Path) -> tuple[int, int]:
    """Registers a thread and bytes of stack and local memory (what spills would take)."""
    target = folder / "kernel.cubin"
    target.write_bytes(compiled.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", str(target)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2]) + int(found[3])


def map_kernels_of(
    arch: int | str, size: tuple[int, int] = (256, 256), combine: Any = "sum", write: bool = True, keep: int = 0,
    shapes=RESNET18,
) -> list[Any]:
    spec = MapSpec(tuple(s[1:] for s in shapes), size, (1.0,) * len(shapes), combine, 4.0, False, "reflect")
    pointers = dict(D="*fp32", ROWS="*fp32", COLUMNS="*fp32", STARTS="*i32", OUT="*fp32", SCORE="*fp32")
    return [
        build(map_kernels.map_kernel, pointers, dict(
            LEVELS=plan.levels, TOTAL=plan.total, H=size[0], W=size[1], BM=plan.block[0], BN=plan.block[1],
            CHUNK=map_launch.CHUNK, PRODUCT=plan.product, WRITE=write, KEEP=keep,
            PRECISION="tf32x3" if isinstance(arch, int) else "ieee",
        ), arch)
        for plan in map_launch.plans(spec, torch.device("cpu"))
    ]


PLAIN, PRODUCT, TOPK = dict(), dict(combine="product"), dict(keep=128)
LARGE, ODD = dict(size=(512, 512), shapes=((8, 128, 128), (8, 64, 64))), dict(size=(50, 33))


@pytest.mark.parametrize(("arch", "options"), [
    *((arch, options) for arch in (80, 90, 100) for options in (PLAIN, PRODUCT)),
    (90, dict(write=False)), (90, LARGE), (90, ODD), (80, ODD), (90, TOPK),
])
def test_map_kernel_stays_in_registers(arch: int, options: dict[str, Any], tmp_path: Path) -> None:
    for compiled in map_kernels_of(arch, **options):
        registers, spilled = resources(compiled, tmp_path)
        assert spilled == 0
        assert registers <= MAP_REGISTERS[arch]
        assert compiled.metadata.shared <= 48 * 1024


def test_map_kernel_uses_the_tensor_cores() -> None:
    assert "mma.sync" in map_kernels_of(80)[0].asm["ptx"]
    assert "wgmma" in map_kernels_of(90)[0].asm["ptx"]
    assert "tcgen05.mma" in map_kernels_of(100)[0].asm["ptx"]


@pytest.mark.skipif("amd" not in triton.backends.backends, reason="this triton has no AMD backend")
def test_map_kernel_compiles_for_amd_without_spills() -> None:
    for compiled in map_kernels_of("gfx942"):
        text = compiled.asm["amdgcn"]
        assert re.search(r"\.vgpr_spill_count:\s+0\b", text)
        assert re.search(r"\.private_segment_fixed_size:\s+0\b", text)


@pytest.mark.parametrize(("arch", "dtype", "last"), [
    *((90, dtype, last) for dtype in ("bf16", "fp16", "fp32") for last in (NCHW, NHWC, MIXED)),
    *((arch, dtype, last) for arch in (80, 100) for dtype, last in (("bf16", NHWC), ("fp32", NCHW), ("bf16", MIXED))),
])
def test_discrepancy_kernel_stays_in_registers(
    arch: int, dtype: str, last: tuple[bool, bool], tmp_path: Path
) -> None:
    formats = [torch.channels_last if x else torch.contiguous_format for x in last]
    for shapes in (RESNET18, WIDE_RESNET50) if arch == 90 else (WIDE_RESNET50,):
        teacher, student = ([torch.empty(2, *s).contiguous(memory_format=f) for s in shapes] for f in formats)
        _, _, levels, _ = map_launch.discrepancy_levels(teacher, student)
        total = sum(h * w for _, h, w in shapes)
        pointers = dict(TEACHER=("*" + dtype,) * 3, STUDENT=("*" + dtype,) * 3, OUT="*fp32", SCORE="*fp32")
        constants = dict(LEVELS=levels, TOTAL=total, START_SCORE=True, EPS=1e-8)
        compiled = build(map_kernels.discrepancy_kernel, pointers, constants, arch, scalars=("BATCH",))
        registers, spilled = resources(compiled, tmp_path)
        assert spilled == 0
        assert registers <= (168 if last == MIXED else 128)
        loads = re.findall(r"ld\.global[^\s]*", compiled.asm["ptx"])
        assert loads
        if last[0] == last[1]:  # one of two layouts that differ is read across its grain
            assert all(".v4.b32" in load for load in loads), set(loads)
