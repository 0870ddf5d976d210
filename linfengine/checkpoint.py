"""Files a user keeps: models and training checkpoints, in safetensors with a description of themselves.

A model file holds the net's parameters and buffers by name and, as metadata: `format` (this page's version), `config`
(JSON that `layers.build` takes), `p` (the order its training has reached; "inf" when it is done), `version` (of
linfengine), and whatever the writer adds (dataset, recipe).  Files are written whole or not at all, see
`files.write_file`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ._version import __version__
from .backends import Array, to_numpy
from .errors import UserError
from .exact import ExactNet as _ExactNet  # noqa: F401 (so that `build` knows it)
from .files import write_file
from .layers import Module, build

FORMAT = "linfengine-1"


def save_tensors(path: str | Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Arrays by name with metadata, as one safetensors file.  Raises UserError as `write_file`."""
    write_file(path, _content(tensors, metadata))


def _content(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    arrays = {name: np.asarray(to_numpy(array), order="C") for name, array in tensors.items()}
    return _in_order(save(arrays, {"format": FORMAT, "version": __version__, **metadata}))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its header sorted: the library orders metadata by chance, and equal runs should
    give equal files."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def load_tensors(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """What `save_tensors` wrote: (tensors, metadata).

    Raises UserError for a missing, truncated or foreign file, or one of another format version.
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
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "a file without one")
        raise UserError(f"{path}: expected format {FORMAT}, got {found:.40}")
    return tensors, metadata


def _json(text: str | bytes) -> Any:
    """JSON in which no name stands twice: readers disagree on which one counts."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.40} stands there twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def save_model(model: Module, path: str | Path, **metadata: str) -> None:
    """Save a net with its description, its p and any further metadata.  Raises UserError as `write_file`."""
    write_file(path, model_content(model, **metadata))


def model_content(model: Module, **metadata: str) -> bytes:
    """The content of the file that `save_model` writes."""
    return _content(model.state(), {"config": json.dumps(model.config()), "p": repr(model.p), **metadata})


class Loaded(NamedTuple):
    """A net in evaluation mode, the metadata of its file, and the SHA-256 (hexadecimal) of the bytes it was read from.

    A certificate that names this hash speaks of this net, even if the file is replaced meanwhile.
    """

    net: Module
    metadata: dict[str, str]
    sha256: str


def read_model(path: str | Path) -> Loaded:
    """The net in a file that `save_model` wrote, and the hash of what was read: the file is read once.

    Raises UserError for a file that is not a whole model of this format, or whose tensors do not fit its description.
    """
    content = _read(path)
    tensors, metadata = _tensors(path, content)
    if "config" not in metadata:
        raise UserError(f"{path}: expected a model, got a file without a net's description (a training checkpoint?)")
    try:
        config = _json(metadata["config"])
        _check_description(config, tensors)
        model = build(config)
        model.load_state(tensors)
        model.p = float(metadata["p"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"{path}: not a model that fits its own description ({error})") from None
    return Loaded(model.eval(), metadata, hashlib.sha256(content).hexdigest())


def load_model(path: str | Path) -> tuple[Module, dict[str, str]]:
    """(net, metadata) from a file `save_model` wrote; the net is in evaluation mode.

    Raises UserError as `read_model`.
    """
    net, metadata, _ = read_model(path)
    return net, metadata


def _check_description(config: dict[str, Any], tensors: Mapping[str, Array]) -> None:
    """Raises ValueError for a description that asks for more numbers or layers than the file holds.

    So no more memory is taken than the file's own size allows, whatever the description says.
    """
    held = sum(array.size for array in tensors.values())
    if (asked := _numbers(config, len(tensors))) > held:
        raise ValueError(f"its layers have {asked:.4g} numbers, and the file holds {held}")


def _numbers(config: dict[str, Any], most: int) -> int:
    """How many weights and means the described layers have, not counting biases; at most `most` layers in a row."""

    def size(key: str, default: int | None = None) -> int:
        value = config[key] if default is None else config.get(key, default)
        if type(value) is not int or value < 0:
            raise ValueError(f"{key} must be a whole number from 0 on, got {value!r:.40}")
        return value

    match config["layer"]:
        case "Sequential" | "ExactNet":
            return sum(_numbers(layer, most) for layer in config["layers"])
        case "LinfDistDense":
            return size("in_features") // max(size("groups", 1), 1) * size("out_features")
        case "LinfDistConv2d":
            taps = size("kernel_size") ** 2
            return size("in_channels") // max(size("groups", 1), 1) * taps * size("out_channels")
        case "Dense":
            return size("in_features") * size("out_features")
        case "MeanShift":
            return size("channels")
        case "LinfDistNet" | "LinfDistConvNet" as name:
            return _numbers_of_net(name, config, size, most)
    return 0


def _numbers_of_net(name: str, config: dict[str, Any], size: Callable[..., int], most: int) -> int:
    shape, width, head, classes, crop = (
        config["shape"],
        size("width"),
        size("head", 0),
        size("classes"),
        size("crop", 0),
    )
    if any(type(each) is not int or each < 1 for each in shape) or len(shape) != 3:
        raise ValueError(f"shape must be three positive numbers, got {shape!r:.40}")
    if len(config["mean"]) not in (1, shape[0]):
        raise ValueError(f"expected a mean for each of {shape[0]} channels, got {len(config['mean'])}")
    channels, rows, columns = (shape[0], crop, crop) if crop else shape
    if name == "LinfDistNet":
        depth = size("depth")
        if depth > most:
            raise ValueError(f"depth {depth:.4g} is more than the {most} tensors in the file")
        features, hidden = channels * rows * columns, depth if head else depth - 1
        body = features * width + (hidden - 1) * width**2 if hidden > 0 else 0
        features = width if hidden > 0 else features
    else:
        first = size("channels")
        second = 2 * first
        pooled = ((rows + 1) // 2) * ((columns + 1) // 2)
        body = 9 * (channels * first + first**2 + first * second + 2 * second**2) + second * pooled * width
        features = width
    return body + (features * head + head * classes if head else features * classes)
