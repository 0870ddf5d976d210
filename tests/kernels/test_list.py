"""A new kernel is a line of kernels.def, its metric in C++ and in CUDA, its reference, its place in the interface.

The tests walk the list. Everything else follows from it: each kernel of the list is there everywhere, and nothing is
there that the list does not name.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest

from linfengine.backends import Backend, _cpu, cpu, cuda, gpu, orders, reference
from linfengine.backends.kernels import KERNELS, LINES, LIST, Line, read
from linfengine.schedules import CHEAP_ORDERS

ROOT = Path(__file__).parents[2]
CPP = "\n".join(path.read_text() for path in sorted((ROOT / "src_cpp").glob("*.[ch]pp")))
CUDA = "\n".join(path.read_text() for path in sorted(cuda.FOLDER.glob("*.cu*")))
TESTS = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
BODIES = {kernel.body for kernel in cuda.ALL}
METRICS = ("FORWARD", "BYTES", "METRIC", "METRICS", "CPU_METRICS")
COMPOSED = {"dead_zone", "channel_sums"}  # on the GPU, of other kernels and of CuPy's

every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


def of_kind(*kinds: str) -> list[Line]:
    return [line for line in LINES if line.kind in kinds]


def defines(text: str, name: str) -> bool:
    """Whether C++ or CUDA defines a structure, an alias or a function of that name."""
    return bool(re.search(rf"\bstruct {name}\b|\busing {name} =|\b(?:void|unsigned) {name}\(", text))


def test_the_list_is_read_whole() -> None:
    lines = [line for line in LIST.read_text().splitlines() if line.strip() and not line.startswith("//")]
    assert len(LINES) == len(lines)
    assert len({(line.kind, line.name) for line in LINES}) == len(LINES)
    (line,) = read('FORWARD(new, New, "x:T(n,gk) w:T(o,k) p > y:T(n,o)? z:i(n,o)")\n// COMMENT(a, b)\n')
    assert (line.kind, line.name, line.code) == ("FORWARD", "new", "New")
    assert [(each.name, each.type, each.output, each.optional) for each in line.arguments] == [
        ("x", "T", False, False), ("w", "T", False, False), ("p", "", False, False), ("y", "T", True, True),
        ("z", "i", True, False),
    ]  # fmt: skip


@every_kernel
def test_a_kernel_has_its_metric_in_cpp(kernel: Line) -> None:
    assert defines(CPP, kernel.code or kernel.name)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_every_instruction_set_has_every_kernel(isa: str) -> None:
    """They fill one table, which the list declares: a line that is missing somewhere does not compile."""
    source = (ROOT / "src_cpp" / f"kernels_{isa}.cpp").read_text()
    assert source.splitlines() == [f"#define LINFENGINE_ISA {isa}", '#include "kernels.cpp"']
    table, filled = ((ROOT / "src_cpp" / name).read_text() for name in ("kernels.h", "kernels.cpp"))
    for kind in {line.kind for line in LINES if line.kind != "OPERATION" and not line.kind.startswith("GPU_")}:
        assert f"#define {kind}" in table
        assert f"#define {kind}" in filled


@every_kernel
def test_a_kernel_has_its_cuda_twin(kernel: Line) -> None:
    if kernel.kind == "FORWARD":
        assert any(body.startswith(f"forward<{kernel.code}<float>") for body in BODIES)
    elif kernel.kind == "STEP":
        assert {f"{kernel.name}<float>", f"{kernel.name}<double>"} <= BODIES
    elif kernel.name in COMPOSED:
        assert inspect.isfunction(getattr(gpu, kernel.name))
        return
    else:
        assert {"lp_dist": "lp_power", "linf_dist_backward": "scatter"}.get(kernel.name, kernel.name) in CUDA
        return
    assert defines(CUDA, kernel.code)


@every_kernel
def test_a_kernel_has_its_reference_and_its_place_in_the_interface(kernel: Line) -> None:
    described = getattr(Backend, kernel.name)
    assert described.__doc__
    for backend in (reference, cpu, gpu):
        function = getattr(backend, kernel.name)
        expected = list(inspect.signature(described).parameters)[1:]  # without self
        assert list(inspect.signature(function).parameters) == expected


@every_kernel
def test_a_kernel_has_a_test_case(kernel: Line) -> None:
    assert re.search(rf'device\.{kernel.name}\(|"{kernel.name}"', TESTS)


@pytest.mark.parametrize("line", of_kind("METRIC", "METRICS", "CPU_METRICS", "SLOPE", "SLOPES", "CPU_ITEM", "CPU_SUMS"))
def test_a_part_is_in_cpp_and_in_cuda(line: Line) -> None:
    assert defines(CPP, line.code or line.name)
    if not line.kind.startswith("CPU_"):
        assert defines(CUDA, line.code)
        assert any(line.code in body or line.name in body for body in BODIES)


@pytest.mark.parametrize("line", of_kind("GPU_ITEM"), ids=lambda line: line.name)
def test_a_part_of_the_gpu_alone_is_in_its_file(line: Line) -> None:
    assert f"void {line.name}(const {line.code}<T>& a)" in (cuda.FOLDER / line.file).read_text()


def test_nothing_is_there_that_the_list_does_not_name() -> None:
    listed = {line.code for line in of_kind(*METRICS)}
    for metric in re.findall(r"struct (\w+) : Metric", CPP):
        assert metric in listed | {"LpOfAnyOrder"}  # of which LpGeneral and LpSparse are two
    named = {line.name for line in LINES} | {line.code for line in LINES} | {"forward", "lp_dist_backward"}
    for function in re.findall(r"__device__ __forceinline__ void (\w+)\(const \w+<T>& a\)", CUDA):
        assert function in named
    assert set(cuda.FIELDS) == {"Forward", "Backward"} | {line.code for line in of_kind("STEP", "GPU_ITEM")}
    called = set(re.findall(r'_run\("(\w+)"', Path(cpu.__file__).read_text()))
    assert called <= set(KERNELS)


def test_the_compiled_kernels_are_those_of_the_list() -> None:
    for name in KERNELS:
        with pytest.raises(TypeError, match="arguments are expected"):
            _cpu.run(name, ())
    with pytest.raises(KeyError):
        _cpu.run("no_such_kernel", ())


BY_HAND = {"__init__.py", "reference.py", "kernels.def"}
CALLERS = {  # operations made of a forward, and the kernel that takes other arrays than its function
    "linf_dist": {"gpu.py"}, "linf_dist_bounds": {"gpu.py"}, "dead_zone": {"gpu.py"}, "matmul": {"cpu.py", "gpu.py"}
}  # fmt: skip


@pytest.mark.parametrize("kernel", of_kind("FORWARD", "BYTES"), ids=lambda kernel: kernel.name)
def test_no_other_file_of_the_backends_names_a_forward(kernel: Line) -> None:
    """What is written by hand is the list, the metric and its twin, the reference and the interface: five edits."""
    pattern = re.compile(rf"\b(?:{kernel.name}|{kernel.code})\b")
    files = [path for path in LIST.parent.glob("*.*") if path.suffix != ".so"]
    named = {path.name for path in files if pattern.search(code_of(path))}
    assert named - BY_HAND <= CALLERS.get(kernel.name, set())


def code_of(path: Path) -> str:
    """The file without its comments and docstrings."""
    text = path.read_text()
    if path.suffix != ".py":
        return re.sub(r"//.*|#.*", "", text)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


# The constants of finite p.


def test_the_orders_stand_once() -> None:
    """In orders.h, which C++ and CUDA include; Python reads it."""
    assert orders.CPU_POWERS[0] == 1
    assert set(orders.GPU_POWERS) <= set(orders.CPU_POWERS)
    assert tuple(p for p in orders.CPU_POWERS if p >= 8) == CHEAP_ORDERS
    assert f"CPU_POWERS {', '.join(map(str, orders.CPU_POWERS))}\n" in (LIST.parent / "orders.h").read_text()
    for constant in ("0x1p-100", "0x1p+120", "0x1p-125", "0x1p-1021", "1e30", "384"):
        for path in (ROOT / "src_cpp", cuda.FOLDER, LIST.parent):
            for file in path.glob("*.*"):
                if file.suffix in (".h", ".hpp", ".cpp", ".cu", ".cuh", ".py", ".pyx") and file.name != "orders.h":
                    assert not re.search(rf"(?<![\w.]){re.escape(constant)}(?![\w.])", code_of(file)), file
