"""A name always stands for a whole file, and a folder for one run."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfengine.errors import UserError
from linfengine.files import LOCK, check_writable, folder_lock, remove_temporaries, write_file

posix = pytest.mark.skipif(sys.platform == "win32", reason="no links, pipes and modes as POSIX has them")
as_user = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")


def complaint(call: Callable[..., object], *arguments: Any) -> str:
    """The sentence that a call is refused with."""
    with pytest.raises(UserError) as refusal:
        call(*arguments)
    sentence = str(refusal.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


# Regular files.


@given(content=st.binary(max_size=100), before=st.none() | st.binary(max_size=100))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, before: bytes | None
) -> None:
    path = tmp_path_factory.mktemp("written") / "file"
    if before is not None:
        path.write_bytes(before)
    check_writable(path)
    assert before is None or path.read_bytes() == before
    write_file(path, content)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "deep" / "file"
    check_writable(path)
    assert os.listdir(tmp_path) == []  # a check makes no folder
    write_file(path, b"first")
    write_file(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


@posix
def test_modes(tmp_path: Path, umask: int) -> None:
    """A new file gets that of the umask, and an old one keeps its own."""
    path = tmp_path / "file"
    write_file(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o664, 0o755):
        path.chmod(mode)
        check_writable(path)
        write_file(path, b"again")
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    try:
        os.chown(path, 1234, 2345)
    except PermissionError:
        pytest.skip("this root may not give files away")
    write_file(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def note(*arguments: Any) -> None:
            calls.append(name)
            real(*arguments)

        return note

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noting(name))
    write_file(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "raised"), [(OSError(errno.ENOSPC, "No space left on device"), UserError), (KeyboardInterrupt(), None)]
)
def test_a_write_that_fails_leaves_the_old_file_alone(
    name: str, failure: BaseException, raised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")

    def fail(*arguments: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(raised or type(failure)) as caught:
            write_file(path, b"new")
    if raised:
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interruption_right_after_the_renaming_is_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace_and_stop(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_stop)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def temporary_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    real, names = os.replace, []

    def noting(source: Any, target: Any) -> None:
        names.append(Path(source).name)
        assert Path(source).parent == Path(target).parent
        real(source, target)

    monkeypatch.setattr(os, "replace", noting)
    for _ in range(count):
        write_file(tmp_path / "file", b"content")
    return names


def test_temporary_names_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(temporary_names(tmp_path, monkeypatch, 50))) == 50


@posix
def test_a_link_planted_under_a_temporary_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 16)  # as if it could be foreseen
    (tmp_path / f".file.{'0' * 16}.part").symlink_to(victim)
    (tmp_path / ".file.part").symlink_to(victim)
    assert "File exists" in complaint(write_file, tmp_path / "file", b"new")
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "file").exists()


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    mine = [".file.part", ".file.0123.part", ".other.0123456789abcdef.part", "file.0123456789abcdef.part", "file"]
    for name in [*mine, ".file.0123456789abcdef.part", ".one-2.json.0123456789abcdef.part"]:
        (tmp_path / name).touch()
    killed = tmp_path / ".events.0123456789abcdef.part"
    killed.mkdir()
    (killed / "half").touch()
    outside = tmp_path / ".other.part"  # a folder elsewhere
    outside.mkdir()
    (tmp_path / ".events.fedcba9876543210.part").symlink_to(outside, target_is_directory=True)
    mine.append(outside.name)
    remove_temporaries(tmp_path, "file", "one*.json", "events")
    assert sorted(os.listdir(tmp_path)) == sorted(mine)
    remove_temporaries(tmp_path / "none", "file")


def test_two_writers_of_one_name(tmp_path: Path) -> None:
    """A reader sees one content or the other, whole."""
    path, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in range(2)]
    write_file(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(15):
            write_file(path, content)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["file"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    for path in (tmp_path / "file" / "model", tmp_path / "file" / "a" / "b", tmp_path / ("long" * 100)):
        assert f"{path}: cannot be written (" in complaint(write_file, path, b"")
        assert f"{path}: cannot be written (" in complaint(check_writable, path)
    for folder in (tmp_path / "folder", tmp_path / "folder" / "..", Path("."), Path("/")):
        assert complaint(write_file, folder, b"") == f"{folder}: cannot be written (Is a directory)"
        assert "this is a folder" in complaint(check_writable, folder)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_names_of_any_letters_and_the_longest(tmp_path: Path) -> None:
    for name in ("ε" * 127, "a" * 255, "[bold]x", " ", "-"):
        check_writable(tmp_path / name)
        write_file(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"


@as_user
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for call in (lambda: write_file(tmp_path / "file", b""), lambda: check_writable(tmp_path / "a" / "b")):
        assert "cannot be written (Permission denied)" in complaint(call)
    tmp_path.chmod(0o700)


@as_user
def test_a_file_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "file").chmod(0o400)
    assert "Permission denied" in complaint(write_file, tmp_path / "file", b"")
    assert "Permission denied" in complaint(check_writable, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


# Links.


@posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    target.write_bytes(b"old")
    (tmp_path / "relative").symlink_to("folder/target")
    (tmp_path / "chain").symlink_to(tmp_path / "relative")
    (tmp_path / "folder" / "up").symlink_to("../relative")
    for link in (tmp_path / "relative", tmp_path / "chain", tmp_path / "folder" / "up"):
        check_writable(link)
        write_file(link, str(link).encode())
        assert link.is_symlink()
        assert target.read_bytes() == str(link).encode()
        assert not target.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["chain", "folder", "relative"]
    assert sorted(os.listdir(tmp_path / "folder")) == ["target", "up"]


@posix
def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("deep/target")
    check_writable(tmp_path / "link")
    assert os.listdir(tmp_path) == ["link"]
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "target").read_bytes() == b"new"


@posix
def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "a" / "file"):
        expected = f"{path}: cannot be written ({os.strerror(errno.ELOOP)})"
        assert complaint(write_file, path, b"") == complaint(check_writable, path) == expected


# What is no regular file.


@posix
def test_a_device_stays_one() -> None:
    for path in (os.devnull, "/dev/../dev/null"):
        check_writable(path)
        write_file(path, b"content")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_device_that_is_full() -> None:
    check_writable("/dev/full")
    for size in (10, 10**6):
        assert complaint(write_file, "/dev/full", bytes(size)) == f"/dev/full: cannot be written ({os.strerror(28)})"


@posix
def test_a_named_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_writable(pipe)  # without a reader: opening it would wait
    thread = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    thread.start()
    write_file(pipe, b"content" * 20_000)
    thread.join()
    assert read == [b"content" * 20_000]
    assert os.listdir(tmp_path) == ["pipe"]


@posix
@pytest.mark.parametrize("place", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_file_is_written_where_it_is(place: str, tmp_path: Path) -> None:
    if not os.path.isdir(os.path.dirname(place.format(0)) or "."):
        pytest.skip(f"no {place}")
    with open(tmp_path / "log", "wb+", buffering=0) as log:
        log.write(b"before, ")
        path = Path(place.format(log.fileno()))
        if place == "link":
            path = tmp_path / "link"
            path.symlink_to(f"/dev/fd/{log.fileno()}")
        check_writable(path)
        write_file(path, b"content")
        log.write(b", after")
    assert (tmp_path / "log").read_bytes() == b"before, content, after"


@posix
def test_standard_output_and_pipes() -> None:
    program = "from linfengine.files import write_file; write_file('/dev/stdout', b'content')"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"content"
    reader, writer = os.pipe()
    os.close(reader)
    assert complaint(write_file, f"/dev/fd/{writer}", b"x").endswith(f"cannot be written ({os.strerror(errno.EPIPE)})")
    os.close(writer)
    assert "cannot be written (" in complaint(write_file, f"/dev/fd/{writer}", b"x")
    assert "cannot be written (" in complaint(check_writable, f"/dev/fd/{writer}")


# A folder is held by one.


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    said: list[str] = []
    with folder_lock(folder):
        assert (folder / LOCK).read_text() == f"{os.getpid()}\n"
        with folder_lock(str(folder) + "/../one"):  # by the same thread
            pass
        thread = threading.Thread(target=lambda: said.append(complaint(folder_lock(folder).__enter__)))
        thread.start()
        thread.join()
        with folder_lock(tmp_path / "runs" / "two"):
            pass
        (folder / "file").touch()
    expected = f"{folder}: process {os.getpid()} is at work in this folder: wait for it, or choose another folder"
    assert said == [expected]
    assert os.listdir(folder) == ["file"]
    with folder_lock(folder):
        pass


def test_an_empty_folder_that_was_made_for_a_lock_goes_with_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path / "a" / "b"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with folder_lock(tmp_path / "mine"):
        pass
    assert os.listdir(tmp_path) == ["mine"]


@posix
def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom linfengine.files import folder_lock\n"
        "with folder_lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    assert f"process {process.pid} is at work in this folder" in complaint(folder_lock(tmp_path).__enter__)
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / LOCK).exists()
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == []


@posix
def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / LOCK).symlink_to("victim")
    assert "cannot be written (" in complaint(folder_lock(tmp_path).__enter__)
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_folders_that_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert complaint(folder_lock(folder).__enter__) == f"{folder}: cannot be written (Not a directory)"


@posix
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with folder_lock(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path) == []
