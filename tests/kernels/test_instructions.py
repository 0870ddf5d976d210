"""The inner loops, read from the compiled module: how many instructions a term costs.

Speed is measured in benchmarks; this catches what makes it worse (accumulators spilled to memory, a loop no longer
unrolled, an instruction too many) without a clock, by counting in the disassembly.
"""

import re
import shutil
import subprocess
from functools import cache

import pytest

from linfengine.backends import _cpu, cpu

pytestmark = pytest.mark.skipif(
    shutil.which("objdump") is None or "avx2" not in cpu.instruction_sets(), reason="needs objdump and an x86-64 build"
)

# kernel: (its name in the listing, term-vectors in the loop, vector arithmetic instructions a term-vector)
KERNELS = {
    "avx512": {
        "linf": ("tile<linfengine::avx512::Linf<float>, 6, 4", 24, 2),
        "linf_argmax": ("tile<linfengine::avx512::LinfArgmax<float>, 6, 4", 24, 2),
        "linf_bounds": ("tile<linfengine::avx512::LinfBounds<float>, 3, 4", 12, 6),
        "dead_zone": ("tile<linfengine::avx512::DeadZone<unsigned char>, 3, 4", 12, 4),
        "p = 8": ("tile<linfengine::avx512::LpPower<float, 8>, 6, 4", 24, 4),
        "p = 16": ("tile<linfengine::avx512::LpPower<float, 16>, 6, 4", 24, 5),
    },
    "avx2": {
        "linf": ("tile<linfengine::avx2::Linf<float>, 4, 2", 8, 3),
        "p = 8": ("tile<linfengine::avx2::LpPower<float, 8>, 4, 2", 8, 4),
    },
}
ARITHMETIC = re.compile(r"v(sub|add|mul|max|min|range|and|or|fmadd|fmsub|fnmadd|psub|pmax|pmin|por|pand)\w*")


@cache
def functions() -> dict[str, list[tuple[int, str, str]]]:
    """Every function of the compiled module as (address, instruction, operands)."""
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", _cpu.__file__], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, list[tuple[int, str, str]]] = {}
    name = ""
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = head[1]
            found[name] = []
        elif code := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            found[name].append((int(code[1], 16), code[2], code[3]))
    return found


def shortest_loop(code: list[tuple[int, str, str]], least: int) -> list[tuple[int, str, str]]:
    """Of the loops with that much arithmetic the one with the fewest instructions: the innermost."""
    loops = []
    for address, instruction, operands in code:
        target = re.match(r"([0-9a-f]+) ", operands) if instruction.startswith("j") else None
        if target and int(target[1], 16) <= address:
            loops.append([line for line in code if int(target[1], 16) <= line[0] <= address])
    return min((loop for loop in loops if arithmetic(loop) >= least), key=len)


def arithmetic(loop: list[tuple[int, str, str]]) -> int:
    return sum(bool(ARITHMETIC.fullmatch(instruction)) for _, instruction, _ in loop)


@pytest.mark.parametrize(("isa", "kernel"), [(isa, kernel) for isa, kernels in KERNELS.items() for kernel in kernels])
def test_an_inner_loop_has_no_instruction_to_spare(isa: str, kernel: str) -> None:
    if isa not in cpu.instruction_sets():
        pytest.skip(f"this build or processor has no {isa}")
    name, terms, each = KERNELS[isa][kernel]
    code = next((code for head, code in functions().items() if name in head and ".cold" not in head), None)
    if not any(f"linfengine::{isa}::" in head for head in functions()):
        pytest.skip("the module was stripped of its names")
    assert code is not None, f"no function is called {name}: the table of this test is out of date"
    loop = shortest_loop(code, terms * each)
    assert arithmetic(loop) == terms * each
    assert len(loop) <= terms * each + terms + 12  # loads, and the loop itself
    assert not any("(%rsp" in operands for _, _, operands in loop)  # nothing spilled
