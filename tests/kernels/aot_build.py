"""Compile a Triton kernel ahead of time, without a GPU, and read the machine code back."""

import re
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
TOOLS = Path(nvidia.__file__).parent / "bin"


def lanes(arch: str) -> int:
    """Threads of a warp."""
    return 64 if arch.startswith("gfx") else 32


def pointers(kinds: dict[str, Any]) -> set[str]:
    """Arguments that are pointers or tuples of them."""
    return {n for n, kind in kinds.items() if (kind[0] if isinstance(kind, tuple) else kind).startswith("*")}


def build(kernel: Any, kinds: dict[str, Any], constants: dict[str, Any], arch: str, aligned: Collection[str] | None = None,
          **options: int) -> Any:
    """Compile for an architecture as "sm_90" or "gfx942".

    kinds: type of each argument that is no constant, a tuple for a tuple of them. aligned: arguments known to be multiples of
    16 (pointers: of 16 bytes, as torch's allocations are); by default every pointer. options: num_warps (4), maxnreg (none).
    """
    names = kernel.arg_names
    aligned = pointers(kinds) if aligned is None else aligned
    signature = {n: "constexpr" if n in constants else kinds[n] for n in names}
    attributes = {}
    for i, n in enumerate(names):
        if n in aligned and n not in constants:
            places = [(i, j) for j in range(len(kinds[n]))] if isinstance(kinds[n], tuple) else [(i,)]
            attributes |= {place: [["tt.divisibility", 16]] for place in places}
    source = ASTSource(kernel, signature, {n: v for n, v in constants.items() if n in names}, attrs=attributes)
    target = GPUTarget("hip", arch, 64) if arch.startswith("gfx") else GPUTarget("cuda", int(arch[3:]), 32)
    return triton.compile(source, target=target, options={"num_warps": 4} | options)


def tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def on_disk(tool_name: str, option: str, compiled: Any) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return tool(tool_name, option, file.name)


def resources(compiled: Any) -> tuple[int, int]:
    """Registers a thread, and bytes of stack and local memory, which is what spills take, on NVIDIA."""
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", on_disk("cuobjdump", "-res-usage", compiled))
    assert usage, "cuobjdump printed no resource usage"
    return int(usage[1]), int(usage[2]) + int(usage[3])


def read_nvidia(compiled: Any) -> tuple[int, int, int, int]:
    """(registers, spilled bytes, instructions, narrowest feature access in bits)."""
    code = on_disk("nvdisasm", "-c", compiled)
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.M)
    widths = [int(found[1]) for n in names if (found := re.match(r"(?:LDG|STG)\.E.*?\.(64|128|256)\b", n))]
    return *resources(compiled), len(names), min(widths, default=32)


def read_amd(compiled: Any) -> tuple[int, int, int, int]:
    """The same from the assembly text of an AMD GPU."""
    text = compiled.asm["amdgcn"]
    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", text)
        assert found, f"no .{key} in the assembly"
        return int(found[1])
    code = re.findall(r"^\t([a-z]\w+)", text, re.M)
    widths = [32 * int(found[1]) for n in code if (found := re.match(r"(?:global|buffer)_(?:load|store)_dwordx(\d)", n))]
    return number("vgpr_count"), number("vgpr_spill_count") * 4, len(code), min(widths, default=32)


def measured(compiled: Any, arch: str, threads: int, elements: int) -> dict[str, float]:
    """A row of the table. elements: what the kernel's `threads` handle together in one turn of its loops."""
    registers, spilled, instructions, width = (read_amd if arch.startswith("gfx") else read_nvidia)(compiled)
    return {"registers": registers, "spilled": spilled, "bits": width, "instructions": round(instructions * threads / elements, 1)}
