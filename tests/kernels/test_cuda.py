"""The CUDA kernels as sources: every one compiles, and what is compiled is kept."""

import os
import re
from pathlib import Path

import pytest
from support.draws import thorough

from linfengine.backends import cuda, gpu
from linfengine.backends.cuda import Kernel
from linfengine.backends.cuda import launch as launching
from linfengine.backends.cuda.compiler import CompileError, compile_kernel

xp = gpu.xp


def test_every_kernel_has_a_source_of_its_own() -> None:
    assert len({(kernel.source, kernel.options) for kernel in cuda.ALL}) == len(cuda.ALL)
    for kernel in cuda.ALL:
        text = (cuda.FOLDER / kernel.file).read_text()
        function = kernel.body.partition("<")[0]
        assert f'#include "{kernel.file}"' in kernel.source
        assert re.search(rf"__device__ __forceinline__ void {function}\(const {kernel.structure}<T>& a\)", text)
        assert f"-I{cuda.FOLDER}" in kernel.options


SOME = {cuda.forward("linf_dist", "float", (4, 4)), cuda.step("adam_step", "double")}


@pytest.mark.parametrize(
    "kernel", [each if each in SOME else thorough(each) for each in cuda.ALL], ids=lambda kernel: kernel.body
)
def test_every_kernel_compiles(kernel: Kernel) -> None:
    """And the structures are as large as their description says."""
    code, log = compile_kernel(kernel, int(xp.cuda.Device().compute_capability))
    assert code
    assert "error" not in log


def test_a_compiled_kernel_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_folder", lambda: tmp_path)
    load, device = launching._loaded.__wrapped__, xp.cuda.Device().id
    kernels = [cuda.step("adam_step", dtype) for dtype in ("float", "double")]
    for kernel in kernels:
        load(kernel, device)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(kept) == 2
    monkeypatch.setattr(launching, "compile_kernel", None)
    for kernel in kernels:
        load(kernel, device)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("content", [b"", b"no kernel"])
def test_a_kept_kernel_that_is_damaged_is_made_anew(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, kernel, device = launching._loaded.__wrapped__, cuda.step("adam_step", "float"), xp.cuda.Device().id
    monkeypatch.setattr(launching, "_folder", lambda: tmp_path)
    load(kernel, device)
    (whole,) = tmp_path.iterdir()
    (tmp_path / "other").mkdir()
    damaged = tmp_path / "other" / whole.name
    damaged.write_bytes(content)
    monkeypatch.setattr(launching, "_folder", lambda: damaged.parent)
    load(kernel, device)
    assert damaged.read_bytes() == whole.read_bytes()


def test_a_kernel_that_does_not_compile_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.cu").write_text("undeclared here;")
    kernel = Kernel("broken.cu", "broken<float>", "Survey", "float", threads=256, blocks=1, folder=tmp_path)
    monkeypatch.setattr(launching, "_folder", lambda: tmp_path)
    with pytest.raises(CompileError):
        launching._loaded.__wrapped__(kernel, xp.cuda.Device().id)
    assert os.listdir(tmp_path) == ["broken.cu"]


def test_what_is_kept_has_a_name_of_its_own(tmp_path: Path) -> None:
    """It changes with any of the sources."""
    names = {kernel.digest(90) for kernel in cuda.ALL}
    names |= {kernel.digest(80) for kernel in cuda.ALL}
    assert len(names) == 2 * len(cuda.ALL)
    kernel = Kernel("own.cu", "own<float>", "Survey", "float", threads=256, blocks=1, folder=tmp_path)
    for text in ("", "// a", "// b"):
        (tmp_path / "own.cu").write_text(text)
        names.add(kernel.digest(90))
    (tmp_path / "own.cuh").write_text("// c")
    names.add(kernel.digest(90))
    assert len(names) == 2 * len(cuda.ALL) + 4


def test_kernels_are_kept_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = launching._folder.__wrapped__
    monkeypatch.setenv("LINFENGINE_KERNELS", str(tmp_path / "new" / "kernels"))
    assert place() == tmp_path / "new" / "kernels"
    assert place().is_dir()
    (tmp_path / "file").touch()
    for there in ("file", "file/kernels"):  # which can be no folder
        monkeypatch.setenv("LINFENGINE_KERNELS", str(tmp_path / there))
        elsewhere = place()
        assert elsewhere.is_dir()
        assert tmp_path not in elsewhere.parents
        elsewhere.rmdir()


def test_the_structures_are_those_of_the_header() -> None:
    """Size alone would not show two fields in each other's place."""
    kinds = {"int": "i4", "long long": "i8", "T": "T"}
    text = re.sub(r"//.*", "", (cuda.FOLDER / "kernels.cuh").read_text())
    for structure, described in cuda.FIELDS.items():
        found = re.search(rf"struct {structure} \{{(.*?)\n\}};", text, re.DOTALL)
        assert found, structure
        fields = []
        for declaration in filter(None, map(str.strip, found[1].split(";"))):
            kind, names = re.fullmatch(r"(.*?[ *]) *(\w+(?:, \w+)*)", declaration, re.DOTALL).groups()  # type: ignore[union-attr]
            kind, pointer, _ = kind.strip().removeprefix("const ").partition("*")
            fields += [f"{name}:{kinds[kind]}{pointer}" for name in names.split(", ")]
        assert fields == described.split()
