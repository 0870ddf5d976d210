"""Model files and training checkpoints: safetensors with a description of the net.

A model file, format 2, holds the net's parameters and buffers by name and, as metadata: `format`, `config` (JSON: the
flat list of layers, and the domain), `p` (the order its training has reached; "inf" when it is done), `version` (of
linfengine), and what the writer adds (dataset, recipe). Format 1, which named nets by their classes, is still read:
see `format1`. Files are written whole or not at all, see `files.write_file`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ._version import __version__
from .backends import Array, to_numpy
from .errors import UserError
from .exact import ExactNet
from .files import write_file
from .format1 import FORMAT_1, upgraded
from .layers import Module, Sequential, build
from .layers.registry import described

FORMAT = "linfengine-2"
FORMATS = (FORMAT, FORMAT_1)
FEW = 2**16  # numbers that a description may ask for beyond the file: so an error can name a missing array


def save_tensors(path: str | Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Arrays by name with metadata, as one safetensors file. Raises UserError as `write_file`."""
    write_file(path, _content(tensors, metadata))


def _content(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    arrays = {name: np.asarray(to_numpy(array), order="C") for name, array in tensors.items()}
    return _in_order(save(arrays, {"format": FORMAT, "version": __version__, **metadata}))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with a sorted header: the library orders metadata randomly, and equal runs should
    give equal files."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def load_tensors(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """(tensors, metadata) of a file that `save_tensors` wrote.

    Raises UserError for a missing or truncated file, a file of another kind, or an unknown format version.
    """
    return _tensors(path, _read(path))


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):  # a device may have no end
                raise UserError(f"{path}: expected a safetensors file, and this is a device")
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: expected a safetensors file, and this is a folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _tensors(path: str | Path, content: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        tensors = load(content)
        header = _json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: expected a whole safetensors file, which this is not ({error})") from None
    except KeyError as error:
        raise UserError(f"{path}: expected a safetensors file of NumPy's number formats, got {error}") from None
    metadata = header.get("__metadata__") or {}
    if metadata.get("format") not in FORMATS:
        found = metadata.get("format", "a file without one")
        raise UserError(f"{path}: expected format {FORMAT}, got {found:.40}")
    return tensors, metadata


def _json(text: str | bytes) -> Any:
    """JSON in which no name stands twice in one object: readers disagree on which one counts."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.40} stands there twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def save_model(model: Module, path: str | Path, **metadata: str) -> None:
    """Save a net with its description, its p and further metadata. Raises UserError as `write_file`."""
    write_file(path, model_content(model, **metadata))


def model_content(model: Module, **metadata: str) -> bytes:
    """The content of the file that `save_model` writes."""
    return _content(model.state(), {"config": json.dumps(model.config()), "p": repr(model.p), **metadata})


class Loaded(NamedTuple):
    """A net in evaluation mode, the metadata of its file, and the SHA-256 (hexadecimal) of the bytes it was read from.

    A certificate that names this hash is about this net, even if the file is replaced later.
    """

    net: Module
    metadata: dict[str, str]
    sha256: str


def read_model(path: str | Path) -> Loaded:
    """The net in a file that `save_model` wrote, and the hash of the bytes read. The file is read once.

    Raises UserError for a file that is not a whole model of a known format, or whose tensors do not fit its
    description.
    """
    content = _read(path)
    tensors, metadata = _tensors(path, content)
    if "config" not in metadata:
        raise UserError(f"{path}: expected a model, got a file without a net's description (a training checkpoint?)")
    try:
        config = _json(metadata["config"])
        if metadata["format"] == FORMAT_1:
            config = upgraded(config, len(tensors))
        model = built_net(config, sum(array.size for array in tensors.values()))
        model.load_state(tensors)
        model.p = float(metadata["p"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"{path}: not a model that fits its own description ({error})") from None
    model.eval()
    return Loaded(model, metadata, hashlib.sha256(content).hexdigest())


def load_model(path: str | Path) -> tuple[Module, dict[str, str]]:
    """(net, metadata) from a file `save_model` wrote; the net is in evaluation mode.

    Raises UserError as `read_model`.
    """
    net, metadata, _ = read_model(path)
    return net, metadata


def built_net(config: dict[str, Any], most: float = math.inf) -> Module:
    """The net of a description (format 2), with fresh parameters; an ExactNet if its domain has a grid.

    Raises ValueError for a description of more than `most` numbers and more than `FEW`, so that memory stays in
    proportion to the file, and as `layers.build`.
    """
    if (asked := described(config).layer.numbers_in(config)) > max(most, FEW):
        raise ValueError(f"its layers have {asked:.4g} numbers, and the file holds {most}")
    net = build(config)
    if isinstance(net, Sequential) and net.domain is not None and net.domain.fraction_bits is not None:
        return ExactNet(*net.layers, domain=net.domain)
    return net
