"""Compile the fused kernels ahead of time, without a GPU, and read the machine code back.

`python tests/kernels/aot.py` prints the whole table against aot_table.json and fails on a regression; with --write it
makes the table anew. A row: registers a thread, bytes spilled, narrowest load and store of a feature tensor in bits,
instructions an element (static; a loop body counts once, for the elements of one turn).
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import triton
from bikd_kernels.bidirectional_kernel import objective_kernel
from bikd_kernels.cosine_kernel import pair_kernel
from bikd_kernels.tiles import parts_of, tile
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TABLE = Path(__file__).with_name("aot_table.json")
TOOLS = Path(nvidia.__file__).parent / "bin"
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
CHANNELS = {"sm_90": (64, 128, 256, 512, 1024)}
OTHER_CHANNELS = (64, 256, 1024)
TRIOS = {"resnet18": (64, 128, 256), "wide_resnet50": (256, 512, 1024)}
KERNELS: dict[str, Any] = {"pair": pair_kernel, "objective": objective_kernel}
MAPS = {"pair": ("T", "S", "GT", "GS"), "objective": ("E", "F", "S", "R", "G", "H", "GS", "GR", "GG", "GH")}
OTHERS = {"pair": ("W",), "objective": ("REGION",)}
SINGLE = {"INVERSE": "*fp32", "PART": "*fp32", "COUNTS": "*fp32", "BETA": "*fp32", "stride": "i32"}
PER_LEVEL_FLOATS = ("scale", "fold", "per_position", "fold_s", "fold_g")
PER_LEVEL_INTS = ("HW", "ROWS", "CHANNELS", "ENDS")
FLAGS = {
    "pair": dict(GRAD_T=False, GRAD_S=True, HAS_W=False, DEAD_ZERO=False),
    "objective": dict(BETA_ON_DEVICE=True, ADAPT=True, GRAD_S=True, GRAD_G=True, DEAD_ZERO=True),
}


def compile_kernel(operator: str, arch: str, dtype: str, last: bool, channels: tuple[int, ...]) -> tuple[Any, int, int]:
    """(compiled, threads, elements of one tile of every level) with the committed tiles, all pointers 16-byte aligned."""
    kernel = KERNELS[operator]
    levels = len(channels)
    tiles = [tile(operator, last, BYTES[dtype], c, arch) for c in channels]
    warps = max(t[2] for t in tiles)
    constants = FLAGS[operator] | dict(
        L=levels, C=channels, BLOCK_C=tuple(t[0] for t in tiles), BLOCK_P=tuple(t[1] for t in tiles),
        NHWC=(last,) * levels, EVEN_P=(True,) * levels)
    if operator == "objective":
        constants |= dict(PTX=arch.startswith("sm_"), TILES=(4 if last else 1,) * levels,
                          PARTS=tuple(parts_of(t, warps, BYTES[dtype], lanes(arch)) if last else 1 for t in tiles))
    kinds: dict[str, Any] = {}
    for name in kernel.arg_names:
        if name in MAPS[operator] or name in OTHERS[operator] or name in PER_LEVEL_INTS or name in PER_LEVEL_FLOATS:
            kind = (f"*{dtype}" if name in MAPS[operator] else {"W": "*fp32", "REGION": "*u8"}.get(name)
                    or ("i32" if name in PER_LEVEL_INTS else "fp32"))
            kinds[name] = (kind,) * levels
        else:
            kinds[name] = SINGLE.get(name, "fp32")
    aligned = pointers(kinds) | set(PER_LEVEL_INTS) - {"ENDS"}
    compiled = build(kernel, kinds, constants, arch, aligned, warps)
    return compiled, warps * lanes(arch), sum(t[0] * t[1] for t in tiles)


def lanes(arch: str) -> int:
    """Threads of a warp."""
    return 64 if arch.startswith("gfx") else 32


def pointers(kinds: dict[str, Any]) -> set[str]:
    """Arguments that are pointers or tuples of them."""
    return {n for n, kind in kinds.items() if (kind[0] if isinstance(kind, tuple) else kind).startswith("*")}


def build(kernel: Any, kinds: dict[str, Any], constants: dict[str, Any], arch: str, aligned: Collection[str] | None = None,
          warps: int = 4) -> Any:
    """Compile for an architecture as "sm_90" or "gfx942".

    kinds: type of each argument that is no constant, a tuple for a tuple of them. aligned: arguments known to be multiples of
    16 (pointers: of 16 bytes, as torch's allocations are); by default every pointer.
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
    return triton.compile(source, target=target, options={"num_warps": warps})


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


def row(operator: str, arch: str, dtype: str, last: bool, channels: tuple[int, ...]) -> dict[str, float]:
    """One row of the table."""
    compiled, threads, elements = compile_kernel(operator, arch, dtype, last, channels)
    registers, spilled, instructions, width = (read_amd if arch.startswith("gfx") else read_nvidia)(compiled)
    return {"registers": registers, "spilled": spilled, "bits": width,
            "instructions": round(instructions * threads / elements, 1)}


def variants() -> Iterator[tuple[str, tuple[str, str, str, bool, tuple[int, ...]]]]:
    """(name, arguments of row) of the whole table."""
    for operator in MAPS:
        for arch in ARCHITECTURES:
            for dtype in BYTES if arch == "sm_90" else ("bf16", "fp32"):
                for last in (True, False):
                    shapes = {str(c): (c,) for c in CHANNELS.get(arch, OTHER_CHANNELS)}
                    if arch == "sm_90" and dtype != "fp16" and (last or operator == "pair"):
                        shapes |= TRIOS
                    for label, channels in shapes.items():
                        layout = "channels_last" if last else "nchw"
                        yield f"{operator}/{arch}/{dtype}/{layout}/{label}", (operator, arch, dtype, last, channels)


def regressions(name: str, found: dict[str, float], committed: dict[str, float]) -> list[str]:
    """What is worse than the committed row: 8 registers and 5 % of the instructions are left to compiler versions."""
    worse = []
    if found["spilled"] > committed["spilled"]:
        worse.append(f"{name} spills {found['spilled']} bytes, was {committed['spilled']}")
    if found["registers"] > committed["registers"] + 8:
        worse.append(f"{name} takes {found['registers']} registers, was {committed['registers']}")
    if found["instructions"] > committed["instructions"] * 1.05:
        worse.append(f"{name} takes {found['instructions']} instructions an element, was {committed['instructions']}")
    if found["bits"] < committed["bits"]:
        worse.append(f"{name} loads or stores {found['bits']} bits, was {committed['bits']}")
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--only", default="", help="part of a row's name")
    parser.add_argument("--missing", action="store_true", help="only rows that the table lacks")
    options = parser.parse_args()
    old = json.loads(TABLE.read_text())["rows"] if TABLE.exists() else {}
    names = [name for name, _ in variants()]
    new, worse = {name: old[name] for name in names if name in old}, []
    for name, arguments in variants():
        if options.only in name and not (options.missing and name in old):
            new[name] = row(*arguments)
            print(name, new[name], flush=True)
            worse += regressions(name, new[name], old[name]) if name in old and not options.write else []
    if options.write:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name in names if (value := new.get(name)))
        TABLE.write_text(f'{{"triton": "{triton.__version__}", "rows": {{\n{lines}\n}}}}\n')
    if worse:
        sys.exit("\n".join(worse))


if __name__ == "__main__":
    main()
