"""Builds the two compiled modules; all else about the package stands in setup.cfg.

linfengine.tensor          linfengine/tensor.pyx, C
linfengine.backends._cpu   linfengine/backends/_cpu.pyx, C++17
  ├─ engine                src_cpp/dispatch.cpp and threads.cpp, a static library
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
from functools import partial
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
# of sums keep their IEEE meaning. At the link, -ffast-math would bring code that makes the process flush denormals.
IEEE = ["-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-associative-math", "-fno-reciprocal-math"]
IEEE += ["-fno-finite-math-only", "-fsigned-zeros"]
C_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", *IEEE]
# Errno and floating-point traps, which nobody reads, go.
CXX_FLAGS = [*C_FLAGS, "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
MODULE_FLAGS = ["-O1"]  # what Cython writes calls Python and the kernels: more would take long and gain nothing
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


class BuildLibraries(build_clib):
    """`BuildModules` builds the libraries, beside the modules that need none of them."""

    def run(self):
        self.run_command("build_ext")

    def build_beside(self, others):
        self.others = others
        super().run()

    def build_libraries(self, libraries):
        """Compile on all processors, the largest library first."""
        compile_them = super().build_libraries
        tasks = [partial(compile_them, [each]) for each in reversed(libraries)] + self.others
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda task: task(), tasks))


class BuildModules(build_ext):
    def build_extensions(self):
        check_toolchain()
        self.cython_c_in_temp = True  # generated code belongs to the build folder, not beside the sources
        if builds("CC", "int main(void) { return 0; }", "-mno-daz-ftz"):
            for module in self.extensions:
                module.extra_link_args.append("-mno-daz-ftz")
        alone = [each for each in self.extensions if each.language != "c++"]
        others = [partial(self.build_extension, each) for each in alone]
        needed = self.compiler.libraries
        self.compiler.set_libraries([])  # they are not there yet, and these modules need none
        self.get_finalized_command("build_clib").build_beside(others)
        self.compiler.set_libraries(needed)
        for each in self.extensions:
            if each not in alone:
                self.build_extension(each)

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
depends = ["setup.py", *sorted(glob("src_cpp/*.*pp") + glob("src_cpp/*.h") + glob("linfengine/backends/*.[dh]*"))]
Library = tuple[str, dict[str, object]]


def library(name: str, sources: list[str], flags: list[str], macros: list[tuple[str, str]]) -> Library:
    sources = [f"src_cpp/{source}" for source in sources]
    return name, {"sources": sources, "obj_deps": {"": depends}, "cflags": [*CXX_FLAGS, *flags], "macros": macros}


HAVE = [(f"LINFENGINE_HAVE_{isa.upper()}", "1") for isa in BUILT]
# Of an inline function that several libraries contain, the linker keeps the first: the engine and portable come first.
LIBRARIES = [library("engine", ["dispatch.cpp", "threads.cpp"], ["-pthread"], HAVE)]
LIBRARIES += [library(f"kernels_{isa}", [f"kernels_{isa}.cpp"], ISAS[isa][1], []) for isa in BUILT]

if __name__ == "__main__":
    setup(
        libraries=LIBRARIES,
        ext_modules=[
            Extension(
                "linfengine.tensor",
                ["linfengine/tensor.pyx"],
                extra_compile_args=[*C_FLAGS, *MODULE_FLAGS],
                extra_link_args=list(LINK_FLAGS),
                depends=depends[:1],
            ),
            Extension(
                "linfengine.backends._cpu",
                ["linfengine/backends/_cpu.pyx"],
                language="c++",
                include_dirs=["src_cpp"],
                extra_compile_args=[*CXX_FLAGS, *MODULE_FLAGS, "-pthread"],
                extra_link_args=[*LINK_FLAGS, "-pthread"],
                depends=depends,
            ),
        ],
        cmdclass={"build_clib": BuildLibraries, "build_ext": BuildModules},
    )
