"""Machine code of simulate's kernels, compiled ahead of time: no spills, registers within limits, wide loads of pictures."""

import re
from typing import Any

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

from aot import build, resources
from bikd_kernels import simulate_kernel as kernels

POINTERS = {"DEPTH": "*fp32", "OPACITY": "*fp32", "FEATHER": "*fp32", "FLAGS": "*u8", "MEDIAN": "*u8", "LABEL": "*i1"}
REGISTERS = {"changed_kernel": 48, "median_kernel": 64, "blend_kernel": 96}  # a thread; more must be looked at first


def compiled_for(name: str, arch: str, dtype: str) -> Any:
    """One kernel for contiguous 3-channel pictures of 256 pixels; pictures and strides are multiples of 16."""
    kernel = getattr(kernels, name)
    constants = dict(C=3, H=256, W=256, R=3, SPECK=8, FULL=20, BLOCK=kernels.BLOCK, sx_w=1, sc_w=1, so_w=1)
    kinds = {n: POINTERS.get(n, "i32" if n.startswith("s") else f"*{dtype}") for n in kernel.arg_names if n not in constants}
    if "visible" in kinds:
        kinds["visible"] = "fp32"
    return build(kernel, kinds, constants, arch, set(kinds) - {"visible"})


@pytest.mark.parametrize("name", list(REGISTERS))
@pytest.mark.parametrize(("arch", "dtype"), [("sm_80", "fp32"), ("sm_90", "bf16"), ("sm_100", "fp32")])
def test_stays_in_registers_and_loads_wide(name: str, arch: str, dtype: str) -> None:
    compiled = compiled_for(name, arch, dtype)
    registers, spilled = resources(compiled)
    assert spilled == 0
    assert registers <= REGISTERS[name]
    if name == "blend_kernel":  # the others read pictures only inside outlines, pixel by pixel
        wide = r"ld\.global\.v4\.b32" if dtype == "fp32" else r"ld\.global\.v[24]\.b32"
        assert len(re.findall(wide, compiled.asm["ptx"])) >= 3
