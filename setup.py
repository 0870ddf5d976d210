"""Builds the two compiled modules; all else about the package stands in setup.cfg.

linfengine.tensor          linfengine/tensor.pyx, C
linfengine.backends._cpu   linfengine/backends/_cpu.pyx and src_cpp/dispatch.cpp and threads.cpp, C++17
  ├─ kernels_portable      src_cpp/kernels.cpp, compiled into one static library
  ├─ kernels_avx2          for each instruction set; dispatch.cpp chooses among
  └─ kernels_avx512        them when the program runs
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

X86 = {"x86_64", "amd64"}
ISAS = {  # instruction set: (machines that may have it, None for all; flags)
    "portable": (None, []),
    "avx2": (X86, ["-mavx2", "-mfma"]),
    "avx512": (X86, ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]),
}
# Flags here come after those of the user's CFLAGS, CXXFLAGS and LDFLAGS, so that NaN, infinity, denormals and the order
# of sums keep their IEEE meaning.  At the link, -ffast-math would bring code that makes the process flush denormals.
IEEE = ["-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-associative-math", "-fno-reciprocal-math"]
IEEE += ["-fno-finite-math-only", "-fsigned-zeros"]
C_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", *IEEE]
# Errno and floating-point traps, which nobody reads, go.
CXX_FLAGS = [*C_FLAGS, "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
LINK_FLAGS = ["-O3", *IEEE]

# A macOS build may aim at several machines at once (universal2): then only what all of them have is built.
MACHINES = set(re.findall(r"-arch\s+(\S+)", os.environ.get("ARCHFLAGS", ""))) if sys.platform == "darwin" else set()
MACHINES = MACHINES or {sysconfig.get_platform().rpartition("-")[2]}
BUILT = [isa for isa, (machines, _) in ISAS.items() if machines is None or machines >= MACHINES]


def builds(variable: str, program: str, *flags: str) -> bool:
    """Whether the compiler that setuptools takes from `variable`, CC or CXX, makes an executable of `program`."""
    compiler = shlex.split(os.environ.get(variable) or sysconfig.get_config_var(variable) or "cc")
    with TemporaryDirectory() as folder:
        source = Path(folder, "probe.c" if variable == "CC" else "probe.cpp")
        source.write_text(program)
        try:
            command = [*compiler, str(source), "-o", str(source.with_suffix(".out")), *flags]
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


def check_toolchain() -> None:
    """Exits with one sentence, which names the package to install, where a compiler or Python.h is missing."""
    main = "int main(void) { return 0; }"
    if not (builds("CC", main) and builds("CXX", f"#include <string_view>\n{main}", "-std=c++17")):
        sys.exit(
            "linfengine needs a C and C++17 compiler and found none that works: install g++ (Debian, Ubuntu), "
            "gcc-c++ (Fedora) or the command line tools (macOS: xcode-select --install), or name yours in CC and CXX."
        )
    include = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    if not builds("CC", f"#include <Python.h>\n{main}", *include):
        sys.exit(
            f"linfengine needs Python.h, which is not in {sysconfig.get_path('include')}: install python3-dev "
            "(Debian, Ubuntu) or python3-devel (Fedora); on macOS the Python of Homebrew or python.org brings it."
        )


class BuildKernels(build_clib):
    """Compiles the instruction sets side by side."""

    def build_libraries(self, libraries):
        check_toolchain()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda library: super(BuildKernels, self).build_libraries([library]), libraries))


class BuildModules(build_ext):
    def build_extensions(self):
        self.run_command("build_clib")  # build_ext alone would not
        self.cython_c_in_temp = True  # generated code belongs to the build folder, not beside the sources
        if builds("CC", "int main(void) { return 0; }", "-mno-daz-ftz"):
            for module in self.extensions:
                module.extra_link_args.append("-mno-daz-ftz")
        super().build_extensions()

    def build_extension(self, ext):
        super().build_extension(ext)
        if flushes_denormals(self.get_ext_fullpath(ext.name)):
            sys.exit(
                f"linfengine needs denormals, and loading {ext.name} would make the process flush them to zero: build "
                "it without the options for fast arithmetic in CFLAGS, CXXFLAGS and LDFLAGS."
            )


def flushes_denormals(library: str) -> bool:
    """Whether a process that has loaded this library takes denormals for zero; no where it cannot be loaded here."""
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); sys.exit(7 * (sys.float_info.min / 2 == 0))"
    return subprocess.run([sys.executable, "-c", program, library], capture_output=True).returncode == 7


# The flags stand in setup.py, so it is a dependency like the headers.
depends = ["setup.py", *sorted(glob("src_cpp/*.*pp") + glob("src_cpp/*.h"))]


def kernels(isa: str) -> tuple[str, dict[str, object]]:
    sources, flags = [f"src_cpp/kernels_{isa}.cpp"], [*CXX_FLAGS, *ISAS[isa][1]]
    return f"kernels_{isa}", {"sources": sources, "obj_deps": {"": depends}, "cflags": flags}


if __name__ == "__main__":
    setup(
        # Of an inline function that several of them contain, the linker keeps the first: portable stands first in ISAS.
        libraries=[kernels(isa) for isa in BUILT],
        ext_modules=[
            Extension(
                "linfengine.tensor",
                ["linfengine/tensor.pyx"],
                extra_compile_args=C_FLAGS,
                extra_link_args=list(LINK_FLAGS),
                depends=depends[:1],
            ),
            Extension(
                "linfengine.backends._cpu",
                ["linfengine/backends/_cpu.pyx", "src_cpp/dispatch.cpp", "src_cpp/threads.cpp"],
                language="c++",
                include_dirs=["src_cpp"],
                define_macros=[(f"LINFENGINE_HAVE_{isa.upper()}", "1") for isa in BUILT],
                extra_compile_args=[*CXX_FLAGS, "-pthread"],
                extra_link_args=[*LINK_FLAGS, "-pthread"],
                depends=depends,
            ),
        ],
        cmdclass={"build_clib": BuildKernels, "build_ext": BuildModules},
    )
