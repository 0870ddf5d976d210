"""The start of the program, before its imports are done: it ends with one sentence after Ctrl-C, or if not compiled.

`linfengine/__init__.py` imports this module first. In any other program than `linfengine` it changes nothing.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # importing typing would take as long as the rest of this file
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130  # the exit status: 128 + SIGINT, as a shell counts


def is_program() -> bool:
    """Whether this process is `linfengine ...` or `python -m linfengine ...`."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module
        return "linfengine" in sys.orig_argv or "-mlinfengine" in sys.orig_argv
    return bool(sys.argv) and os.path.splitext(os.path.basename(sys.argv[0]))[0] == "linfengine"


def hold() -> None:
    """Let Ctrl-C end the process at once: inside an import, a KeyboardInterrupt is a traceback, or is lost."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or has another handler
        signal.signal(signal.SIGINT, _end)


def release() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: from here on the program handles it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)


def refuse_uncompiled(package: str) -> NoReturn:
    """Raises ImportError, with the remedy, if the compiled modules are missing from the package's folder.

    The program prints that sentence and exits with status 2.
    """
    folder = os.path.dirname(package)
    if os.path.exists(os.path.join(folder, "setup.py")):
        sentence = (
            f"Python is importing linfengine from its source folder {folder!r}, where it is not compiled: run "
            "'pip install -e .' there, or start Python in another folder to import the installed package."
        )
    else:
        sentence = f"linfengine in {package!r} lacks its compiled modules: install it anew with pip."
    if is_program():
        sys.stderr.write(f"Error: {sentence}\n")
        sys.exit(2)
    raise ImportError(sentence) from None


if is_program():
    hold()
