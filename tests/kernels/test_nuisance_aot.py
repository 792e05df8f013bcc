"""Machine code of the kernels that draw defects and harmless noise, compiled ahead of time: no spills, registers within limits."""

import re
from typing import Any

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

from aot import build, pointers, resources
from bikd_kernels import draw_defects_kernel, lay_out_kernel, nuisance_kernel
from bikd_kernels.defects import LATTICE, SHUFFLE_GRID

KERNELS = {
    "draw_kernel": draw_defects_kernel.draw_kernel,
    "shift_kernel": draw_defects_kernel.shift_kernel,
    "lay_out_kernel": lay_out_kernel.lay_out_kernel,
    "nuisance_kernel": nuisance_kernel.nuisance_kernel,
}
REGISTERS = {"draw_kernel": 72, "shift_kernel": 32, "lay_out_kernel": 64, "nuisance_kernel": 64}  # a thread
WHOLE = {"ORDER": "*i64", "ROWS": "*i64", "START": "*i64", "COUNTS": "*i32", "POOL": "*u8", "TEXTURES": "*u8", "FOREGROUND": "*u8"}


def compiled_for(name: str, arch: str) -> Any:
    """One kernel for pictures of 256 pixels, with every source and an object mask."""
    kernel = KERNELS[name]
    constants = dict(
        S=256, GRID=SHUFFLE_GRID, COLUMNS=draw_defects_kernel.COLUMNS, LIGHTS=draw_defects_kernel.LIGHTS, TEXTURED=True,
        MASKED=True, TILE=draw_defects_kernel.TILE, C=3, H=256, W=256, BLOCK=nuisance_kernel.BLOCK,
    )  # fmt: skip
    if name == "lay_out_kernel":
        constants |= dict(COLUMNS=lay_out_kernel.COLUMNS, G=64, LATTICE=LATTICE, STRETCH=lay_out_kernel.STRETCH)
    kinds = {n: WHOLE.get(n, "*fp32" if n.isupper() else "fp32") for n in kernel.arg_names if n not in constants}
    warps = draw_defects_kernel.WARPS if name in ("draw_kernel", "shift_kernel") else 4
    return build(kernel, kinds, constants, arch, pointers(kinds), warps)


@pytest.mark.parametrize("name", list(REGISTERS))
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_stays_in_registers(name: str, arch: str) -> None:
    compiled = compiled_for(name, arch)
    registers, spilled = resources(compiled)
    assert spilled == 0
    assert registers <= REGISTERS[name]
    if name == "nuisance_kernel":  # pictures and results: 16 bytes a thread; noise starts anywhere
        assert len(re.findall(r"st\.global\.v4\.b32", compiled.asm["ptx"])) >= 1
        assert len(re.findall(r"ld\.global\.v4\.b32", compiled.asm["ptx"])) >= 1
