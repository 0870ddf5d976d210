"""From a kernel's source to what a GPU loads, by NVIDIA's run-time compiler through CuPy's binding. Needs no GPU.

CuPy's own RawKernel is not for us: it flushes denormals to zero, whatever its options say, and at p = infinity the bits
must be those of every other backend.
"""

from __future__ import annotations

from cupy.cuda import nvrtc

from . import Kernel


class CompileError(RuntimeError):
    """The compiler's log, with file and line of what it refuses."""


def compile_kernel(kernel: Kernel, capability: int, *told: str) -> tuple[bytes, str]:
    """(binary, log) for a compute capability such as 90, given further options.

    Machine code where the compiler knows the GPU, else code of the newest it knows for the driver to translate. Raises
    CompileError.
    """
    known = max((arch for arch in nvrtc.getSupportedArchs() if arch <= capability), default=capability)
    arch = f"--gpu-architecture={'sm' if known == capability else 'compute'}_{known}"
    program = nvrtc.createProgram(kernel.source, f"{kernel.body}.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, (*kernel.options, arch, *told))
        except nvrtc.NVRTCError:
            raise CompileError(nvrtc.getProgramLog(program)) from None
        code = nvrtc.getCUBIN(program) if known == capability else nvrtc.getPTX(program)
        return code + b"\0", nvrtc.getProgramLog(program)  # CuPy leaves out the last byte, which is a zero
    finally:
        nvrtc.destroyProgram(program)
