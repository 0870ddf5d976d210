"""The common part of the commands: errors become one sentence and an exit status."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import click

from .. import startup
from .. import verify as checker
from ..backends import describe_fault, get_backend
from ..errors import UserError
from ..evaluate import SoundnessError
from ..text import printable
from .output import STANDARD_OUTPUT, console, warn

MISTAKE, UNSOUND, INTERRUPTED = 2, 3, startup.INTERRUPTED
OUTPUT_CLOSED = 141  # 128 + SIGPIPE, as a shell counts
OUTPUT_FAULTS = (errno.ENOSPC, errno.EIO, errno.EFBIG)


class Program(click.Group):
    """The group of all commands. It handles every error, also in the arguments and the output."""

    def main(self, *arguments: Any, **settings: Any) -> NoReturn:
        startup.release()
        console.stderr = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without ε shows a ?
        status: Any = 0
        try:
            super().main(*arguments, **settings | {"standalone_mode": False, "prog_name": "linfengine"})
        except click.Abort:  # Ctrl-C between two steps of click
            status = INTERRUPTED
        except SystemExit as end:
            status = end.code
        status = _flushed(sys.stdout, _flushed(sys.stderr, status))
        if startup.is_program():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done, or the error is reported
        raise SystemExit(status)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        with speaks_plainly():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> None:
        with speaks_plainly():
            super().invoke(ctx)


class Command(click.Command):
    """A command that takes each option once, unless the option says that it may be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.is_flag):
                raise click.UsageError(f"{option.opts[0]} is given {times} times: give it once.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        console.stderr = ctx.params.get("json_file") == STANDARD_OUTPUT
        check_environment()
        super().invoke(ctx)


@contextmanager
def speaks_plainly() -> Iterator[None]:
    """Report user errors in one sentence on standard error; any other error keeps its traceback."""
    try:
        yield
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        with suppress(OSError):
            for line in shown.getvalue().rstrip("\n").split("\n"):
                click.echo(printable(line), err=True)
        raise SystemExit(error.exit_code) from None
    except UserError as error:
        stop(MISTAKE, f"Error: {error}")
    except checker.Disagreement as error:
        stop(MISTAKE, f"Not verified: {error}")
    except SoundnessError as error:
        stop(UNSOUND, f"SOUNDNESS: {error}. Please report this")
    except KeyboardInterrupt:
        stop(INTERRUPTED, "Interrupted")
    except OSError as error:
        _failed(error)
    except Exception as error:
        if told := describe_fault(error):
            stop(MISTAKE, f"Error: {told}")
        if isinstance(error, MemoryError):
            stop(MISTAKE, "Error: this needs more memory than there is: try a smaller width or batch_size")
        raise


def stop(status: int, sentence: str) -> NoReturn:
    """End the program with one sentence on standard error."""
    with suppress(OSError):
        warn(f"{sentence.rstrip('.')}.", "red")
    raise SystemExit(status) from None


def why_stopped(error: KeyboardInterrupt | BrokenPipeError) -> tuple[int, str]:
    """(exit status, reason in words) for work that was stopped and can be resumed."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "Interrupted"
    return OUTPUT_CLOSED, "Standard output was closed"


def _failed(error: OSError) -> NoReturn:
    """A closed output (`| head`) ends the program silently, as usual; other errors are reported."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        raise SystemExit(OUTPUT_CLOSED) from None
    where = "standard output: " if error.errno in OUTPUT_FAULTS else ""  # files have a name
    if error.filename is not None:
        where = f"{os.fsdecode(error.filename)}: "
    stop(MISTAKE, f"Error: {where}{error.strerror or error}")


def _flushed(stream: TextIO | None, status: Any) -> Any:
    """Flush the output and return the exit status. At Python's own exit a failure would give a traceback."""
    if stream is None:
        return status
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not status:
            try:
                _failed(error)
            except SystemExit as end:
                return end.code
    return status


def check_environment() -> None:
    """Raises UserError if LINFENGINE_BACKEND, LINFENGINE_ISA or LINFENGINE_NUM_THREADS cannot be satisfied."""
    try:
        get_backend()
        with suppress(ImportError):  # the compiled backend checks the environment
            get_backend("cpu")
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from None
