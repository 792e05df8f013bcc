"""Machine code of simulate's kernels, compiled ahead of time: no spills, registers within limits, wide loads of pictures."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bikd_kernels.dispatch import HAS_TRITON, INTERPRETED

if not HAS_TRITON or INTERPRETED:
    pytest.skip("compiles with Triton, not with its interpreter", allow_module_level=True)

import triton
from bikd_kernels import simulate_kernel as kernels
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(nvidia.__file__).parent / "bin"
POINTERS = {"DEPTH": "*fp32", "OPACITY": "*fp32", "FEATHER": "*fp32", "FLAGS": "*u8", "MEDIAN": "*u8", "LABEL": "*i1"}
REGISTERS = {"changed_kernel": 48, "median_kernel": 64, "blend_kernel": 96}  # a thread; more must be looked at first


def build(name: str, arch: int, dtype: str) -> Any:
    """One kernel for contiguous 3-channel pictures of 256 pixels, pointers 16-byte aligned."""
    kernel = getattr(kernels, name)
    constants = dict(C=3, H=256, W=256, R=3, SPECK=8, FULL=20, BLOCK=kernels.BLOCK, sx_w=1, sc_w=1, so_w=1)
    signature, aligned = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        signature[argument] = POINTERS.get(argument, "fp32" if argument == "visible" else f"*{dtype}")
        if argument.startswith("s"):
            signature[argument] = "i32"
        if argument != "visible":
            aligned[(i,)] = [["tt.divisibility", 16]]
    used = {k: v for k, v in constants.items() if k in kernel.arg_names}
    source = ASTSource(kernel, signature, used, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})


@pytest.mark.parametrize("name", list(REGISTERS))
@pytest.mark.parametrize(("arch", "dtype"), [(80, "fp32"), (90, "bf16"), (100, "fp32")])
def test_stays_in_registers_and_loads_wide(name: str, arch: int, dtype: str, tmp_path: Path) -> None:
    target = tmp_path / "kernel.cubin"
    compiled = build(name, arch, dtype)
    target.write_bytes(compiled.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", str(target)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found, text
    assert int(found[2]) + int(found[3]) == 0
    assert int(found[1]) <= REGISTERS[name]
    if name == "blend_kernel":  # the others read pictures only inside outlines, pixel by pixel
        wide = r"ld\.global\.v4\.b32" if dtype == "fp32" else r"ld\.global\.v[24]\.b32"
        assert len(re.findall(wide, compiled.asm["ptx"])) >= 3
