"""What the package promises about itself: one version, no deep-learning framework, flags that keep IEEE arithmetic."""

import ast
import configparser
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import linfengine
from linfengine import tensor
from linfengine.backends import _cpu

ROOT = Path(__file__).parents[2]
FRAMEWORKS = (
    "autograd|chainer|flax|jax|jaxlib|keras|lightning|mindspore|mlx|mxnet|onnxruntime|paddle|tensorflow|theano|tinygrad|"
    "torch|torchvision|transformers"
)
SOURCES = [path for suffix in ("py", "pyi", "pyx", "pxd") for path in ROOT.glob(f"linfengine/**/*.{suffix}")]


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


def test_the_version_stands_in_one_place() -> None:
    assert version("linfengine") == linfengine.__version__
    assert setup_cfg()["metadata"]["version"] == "attr: linfengine._version.__version__"
    quoted = f'"{linfengine.__version__}"'
    owners = [path.name for path in [ROOT / "setup.py", *SOURCES] if quoted in path.read_text()]
    assert owners == ["_version.py"]


def test_the_newest_change_is_of_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == linfengine.__version__


def test_no_framework_is_imported() -> None:
    # The witness sees every attempt, also one that fails because the framework is not installed here.
    program = """
import sys

class Witness:
    tried = set()
    def find_spec(self, name, path=None, target=None):
        self.tried.add(name.partition(".")[0])

sys.meta_path.insert(0, Witness())
import linfengine.cli
print(*Witness.tried)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    tried = result.stdout.split()
    assert {"linfengine", "numpy"} <= set(tried)
    assert [name for name in tried if re.fullmatch(FRAMEWORKS, name)] == []


def test_no_framework_is_named_by_an_import() -> None:
    statement = re.compile(rf"^\s*(?:from|c?import)\s+(?:{FRAMEWORKS})\b", re.MULTILINE)
    assert statement.search("    import torch.nn")
    assert [path.name for path in SOURCES if statement.search(path.read_text())] == []


def test_no_framework_is_required() -> None:
    config = setup_cfg()
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    names = [re.split(r"[^\w-]", line)[0] for text in lists for line in text.splitlines()]
    assert {"numpy", "pytest"} <= set(names)
    assert [name for name in names if re.fullmatch(FRAMEWORKS, name)] == []


def test_flags_suit_every_machine_and_keep_ieee_arithmetic() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    flags = {word for string in strings if isinstance(string, str) for word in string.split() if word.startswith("-")}
    assert {"-O3", "-std=c++17", "-mavx2", "-mavx512f"} <= flags
    native = r"-march=.*|-mtune=.*"
    loose = r"-Ofast|-ffast-math|-funsafe-.*|-ffinite-.*|-fassociative-.*|-freciprocal-.*|-fno-signed-zeros"
    assert [flag for flag in flags if re.fullmatch(f"{native}|{loose}", flag)] == []


def setup_module_of_the_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("linfengine_setup", ROOT / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86-64")
@pytest.mark.parametrize("loose", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations"])
def test_flags_of_the_user_do_not_flush_denormals(loose: str, tmp_path: Path) -> None:
    """Ours come last, when compiling and when linking: as setuptools orders them."""
    build = setup_module_of_the_build()
    probe = tmp_path / "probe.cpp"
    probe.write_text(
        "#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__\n#error loose\n#endif\n"
        'extern "C" double sum(double a, double b) { return (a + b) - a; }\n'
    )
    compiled, library = tmp_path / "probe.o", tmp_path / "probe.so"
    subprocess.run(["g++", loose, "-fPIC", *build.CXX_FLAGS, "-c", probe, "-o", compiled], check=True)
    subprocess.run(["g++", loose, "-shared", compiled, "-o", library, *build.LINK_FLAGS], check=True)
    assert not build.flushes_denormals(str(library))


@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86-64")
def test_a_library_that_flushes_denormals_is_found_out(tmp_path: Path) -> None:
    source, library = tmp_path / "flush.cpp", tmp_path / "flush.so"
    source.write_text("#include <xmmintrin.h>\n__attribute__((constructor)) void flush() { _mm_setcsr(0x9fc0); }\n")
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library], check=True)
    build = setup_module_of_the_build()
    assert build.flushes_denormals(str(library))
    assert not any(build.flushes_denormals(module.__file__) for module in (_cpu, tensor))


def test_kernels_refuse_to_be_compiled_with_loose_arithmetic() -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    command = ["g++", "-std=c++17", "-ffast-math", "-fsyntax-only", "-Wfatal-errors", "kernels_portable.cpp"]
    result = subprocess.run(command, cwd=ROOT / "src_cpp", capture_output=True, text=True)
    assert result.returncode != 0
    assert "compile them with -fno-fast-math" in result.stderr


def test_nothing_depends_on_a_library_of_threads() -> None:
    """Another library may bring its own OpenMP, and spin."""
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    listing = subprocess.run(["readelf", "-d", _cpu.__file__], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in listing
    assert not re.search(r"lib(g|i)?omp", listing)
