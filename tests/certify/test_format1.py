"""Model files of format 1, written by version 0.2.0 with their certificates, mean what they meant."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from linfengine import verify
from linfengine._version import __version__
from linfengine.certify import certify, write_certificate
from linfengine.checkpoint import load_model, save_model
from linfengine.exact import ExactNet

FOLDER = Path(__file__).parents[1] / "support" / "format1"
SAMPLES = np.load(FOLDER / "samples.npz")
IMAGES = SAMPLES["images"]
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
CERTIFIED = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def test_there_is_a_file_of_each_kind() -> None:
    assert NAMES == ["bytes", "conv", "dense", "exact", "exact-conv", "head", "sequential"]
    assert CERTIFIED == [name for name in NAMES if name != "head"]


@pytest.mark.parametrize("name", NAMES)
def test_a_net_computes_the_same_bits(name: str, tmp_path: Path) -> None:
    """Before and after it is saved in the format of today."""
    net, metadata = load_model(FOLDER / f"{name}.safetensors")
    assert metadata["format"] == "linfengine-1"
    assert isinstance(net, ExactNet) == (name.startswith("exact") or name == "bytes")
    save_model(net, tmp_path / "model")
    again, metadata = load_model(tmp_path / "model")
    assert metadata["format"] == "linfengine-2"
    assert again.config() == net.config()
    for each in (net, again):
        if name == "head":  # a matrix product adds in the order of its library
            np.testing.assert_allclose(each(IMAGES).numpy(), SAMPLES[f"logits of {name}"], rtol=1e-5)
        else:
            assert each(IMAGES).numpy().tobytes() == SAMPLES[f"logits of {name}"].tobytes()


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_certificate_is_the_same_but_for_the_version(name: str, tmp_path: Path) -> None:
    model, before = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.jsonl"
    net, _ = load_model(model)
    labels = SAMPLES[f"logits of {name}"].argmax(axis=1)
    method = json.loads(before.read_text("utf8").splitlines()[0])["method"]
    certificate = certify(net, IMAGES, labels, "1/25", method=method)
    write_certificate(tmp_path / "now", certificate, model, IMAGES, labels, dataset="noise", split="test")
    expected, found = (path.read_text("utf8").splitlines()[:-1] for path in (before, tmp_path / "now"))  # without seal
    expected[0] = re.sub(r'"linfengine": "[^"]*"', f'"linfengine": "{__version__}"', expected[0])
    assert found == expected


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_checker_reads_both(name: str) -> None:
    labels = SAMPLES[f"logits of {name}"].argmax(axis=1)
    header = verify.verify(FOLDER / f"{name}.jsonl", FOLDER / f"{name}.safetensors", IMAGES, labels)
    assert header["rederived"] == len(IMAGES)
