"""Write files whole or not at all, and lock the folder of a run."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

LOCK = ".lock"
MOST_LINKS = 40  # symbolic links that a path may lead through, as on Linux
DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|(\d+))(?:/task/\d+)?)/fd/(\d+)")
BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_held = threading.local()  # `folders`: those that this thread has locked


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: to a new temporary file beside it, flushed to the disk, then renamed.

    A symbolic link is followed: its target is replaced, and the link stays. A file that exists keeps its mode and,
    where the system allows it, its owner; a new one gets the mode that the umask gives. Missing folders are made.
    A device or a pipe (/dev/stdout, /dev/fd/3) is opened and written to.

    Raises UserError if the file cannot be written; a device or pipe may then have received a part of the content.
    """
    with _told(path):
        target = _end_of_links(Path(path))
        if (descriptor := _descriptor(target)) is not None:
            with open(os.dup(descriptor), "wb") as stream:
                stream.write(content)
            return
        old = _stat(target)
        if old is None or stat.S_ISREG(old.st_mode):
            _replace(target, content, old)
        else:
            with open(target, "wb") as stream:  # a folder is refused here
                stream.write(content)


def check_writable(path: str | Path) -> None:
    """Raises UserError if `write_file` could not write there; call it before long work.

    An existing file is not changed, a pipe or a device is not opened, and no folder is made.
    """
    with _told(path):
        target = _end_of_links(Path(path))
        if (descriptor := _descriptor(target)) is not None:
            os.fstat(descriptor)
            return
        old = _stat(target)
        if old is not None and stat.S_ISDIR(old.st_mode):
            raise UserError(f"{path}: expected a file's name, and this is a folder")
        if old is not None:
            _check_permission(target)
        if old is None or stat.S_ISREG(old.st_mode):
            probe = temporary_name(_first_folder(target) / target.name)
            try:
                probe.touch(exist_ok=False)
            finally:
                probe.unlink(missing_ok=True)


def remove_temporaries(folder: Path, *names: str) -> None:
    """Remove temporary files and folders of these names (`temporary_name`) that killed processes left behind.

    `names` may hold the wildcards of `fnmatch`. No other process may be writing such files (see
    `folder_lock`).
    """
    for name in names:
        for file in folder.glob(f".{name}.{16 * '[0-9a-f]'}.part"):
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Lock a folder for this thread until the block ends or the process dies. A missing folder is made.

    It is a lock of the operating system on the file `.lock` in the folder, which holds the process id. The file is
    removed at the end, and so is a folder that was made here and is empty. The thread that holds a lock may lock the
    folder again. On a file system without locks nothing is locked.

    Raises UserError, with the process id, if the folder is locked, and if it cannot be made or written to.
    """
    folder = Path(folder)
    own: set[str] = vars(_held).setdefault("folders", set())
    name = os.path.realpath(folder)
    if name in own:
        yield
        return
    made: list[Path] = []
    try:
        with _told(folder):
            made += _make_folders(folder)
            file = _locked_file(folder)
        own.add(name)
        try:
            yield
        finally:
            own.discard(name)
            with suppress(OSError):  # Windows does not remove an open file
                (folder / LOCK).unlink()
            os.close(file)
    finally:
        with suppress(OSError):  # it is no longer empty
            for parent in reversed(made):
                parent.rmdir()


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """Turn OSErrors into UserErrors that name the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _end_of_links(path: Path) -> Path:
    """The path at the end of a chain of symbolic links; a descriptor (/dev/stdout, /dev/fd/3) is such an end."""
    for _ in range(MOST_LINKS):
        if path.name in ("", ".."):  # a folder
            return path
        path = Path(os.path.realpath(path.parent)) / path.name
        if DESCRIPTOR.fullmatch(str(path)) or not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _descriptor(path: Path) -> int | None:
    """The number of the open file that a path names, if it is one of this process."""
    found = DESCRIPTOR.fullmatch(str(path))
    return int(found[2]) if found and int(found[1] or os.getpid()) == os.getpid() else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _check_permission(path: Path) -> None:
    """Raises PermissionError for a read-only file: renaming would replace it."""
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def temporary_name(path: Path) -> Path:
    """A new name beside the path, which nobody can foresee."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.part")


def _replace(path: Path, content: bytes, old: os.stat_result | None) -> None:
    mode = 0o666 if old is None else old.st_mode & 0o777
    if old is not None:
        _check_permission(path)
    _make_folders(path.parent)
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if old is not None and sys.platform != "win32":
                _keep_owner(file.fileno(), old)
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # an interruption may come right after the renaming
        raise


def _keep_owner(file: int, old: os.stat_result) -> None:
    new = os.fstat(file)
    if sys.platform != "win32" and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):
            os.fchown(file, old.st_uid, old.st_gid)


def _first_folder(path: Path) -> Path:
    """The nearest folder above the path that exists."""
    return next(parent for parent in path.absolute().parents if _stat(parent) is not None)


def _make_folders(folder: Path) -> list[Path]:
    """Make the folder and those above it; returns the ones that were missing, from the top."""
    missing = [each for each in (folder, *folder.parents) if _stat(each) is None]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _locked_file(folder: Path) -> int:
    """A descriptor of the folder's lock file, locked."""
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW | BINARY, 0o666)
        try:
            if not _lock(file):
                pid = os.read(file, 20).decode("ascii", "replace").strip()
                owner = f"process {pid}" if pid.isdigit() else "another process"
                raise UserError(f"{folder}: {owner} is at work in this folder: wait for it, or choose another folder")
            now = _stat(path)
            if now is not None and os.path.samestat(os.fstat(file), now):  # else its owner has just removed it
                os.ftruncate(file, 0)
                os.write(file, f"{os.getpid()}\n".encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        """Whether the file is locked by us now. The locked byte lies behind the process id, so that can be read."""
        os.lseek(file, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(file: int) -> bool:
        """Whether the file is locked by us now, or this file system has no locks."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True
