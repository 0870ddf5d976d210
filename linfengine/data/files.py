"""Bounded reading: a file that is longer than expected is refused before it fills the memory."""

import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError

XZ_MEMORY = 1 << 27  # bytes an .xz decoder may take; files of `xz -9` need 65 MiB
DECODERS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY),
}


def expect(ok: bool, path: Path, expected: str, found: object) -> None:
    """Raises UserError "PATH: expected ..., found ..." unless `ok`."""
    if not ok:
        raise UserError(f"{path}: expected {expected}, found {found}")


def read_bytes(path: Path, most: int) -> bytes:
    """The whole file, or its first `most + 1` bytes if it is longer. Files called .gz or .xz are unpacked.

    The additional byte shows that the file is too long. A packed file must hold one stream. Its checksum is verified
    unless the file is too long. Raises UserError if the file cannot be read or is damaged.
    """
    try:
        with path.open("rb") as file:
            if path.suffix not in DECODERS:
                return file.read(most + 1)
            packed = file.read(most + most // 8 + 4096)  # packing makes hardly any file longer
        decoder = DECODERS[path.suffix]()
        blob: bytes = decoder.decompress(packed, most + 1)
        if len(blob) <= most and not decoder.eof:
            raise EOFError(f"no end in {len(packed):,} packed bytes")
        if decoder.unused_data.strip(b"\0"):
            raise EOFError("data after the end of the packed bytes")
        return blob
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: expected a whole, readable file, found a fault ({error})") from None


def length(blob: bytes, most: int) -> str:
    """The number of bytes that `read_bytes` found, for a message."""
    return f"{len(blob):,} bytes" if len(blob) <= most else "more"


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes, unpacked; bytes that are not UTF-8 become U+FFFD."""
    blob = read_bytes(path, most)
    expect(len(blob) <= most, path, f"at most {most:,} bytes", length(blob, most))
    return blob.decode(errors="replace")
