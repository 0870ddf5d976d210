"""Files a user keeps: models and training checkpoints, in safetensors with a description of themselves.

A model file holds the net's parameters and buffers by name and, as metadata: `format` (this page's version), `config`
(JSON that `layers.build` takes), `p` (the order its training has reached; "inf" when it is done), `version` (of
linfengine), and whatever the writer adds (dataset, recipe).  Files are written to a temporary name and renamed, so
that a name always stands for a whole file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ._version import __version__
from .backends import Array, to_numpy
from .errors import UserError
from .exact import ExactNet as _ExactNet  # noqa: F401 (so that `build` knows it)
from .files import check_writable as check_writable  # until the command line imports it from there
from .files import write_file as write_file
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
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = metadata.get("format", "a file without one")
                raise UserError(f"{path}: expected format {FORMAT}, got {found}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, TypeError, SafetensorError) as error:  # TypeError: a number format that NumPy lacks
        raise UserError(f"{path}: expected a whole safetensors file, which this is not ({error})") from None
    return tensors, metadata


def save_model(model: Module, path: str | Path, **metadata: str) -> None:
    """Save a net with its description, its p and any further metadata.  Raises UserError as `write_file`."""
    write_file(path, model_content(model, **metadata))


def model_content(model: Module, **metadata: str) -> bytes:
    """The content of the file that `save_model` writes."""
    return _content(model.state(), {"config": json.dumps(model.config()), "p": repr(model.p), **metadata})


def load_model(path: str | Path) -> tuple[Module, dict[str, str]]:
    """(net, metadata) from a file `save_model` wrote; the net is in evaluation mode.

    Raises UserError for a file that is not a whole model of this format, or whose tensors do not fit its description.
    """
    tensors, metadata = load_tensors(path)
    if "config" not in metadata:
        raise UserError(f"{path}: expected a model, got a file without a net's description (a training checkpoint?)")
    try:
        model = build(json.loads(metadata["config"]))
        model.load_state(tensors)
        model.p = float(metadata["p"])
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"{path}: not a model that fits its own description ({error})") from None
    return model.eval(), metadata
