"""Every benchmark runs, at tiny sizes, by the one door `python -m benchmarks`."""

import ast
import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import contention, mnist
from benchmarks.__main__ import main
from benchmarks.cpu import kernels, report, training
from linfengine.checkpoint import save_model
from linfengine.data import Dataset, load_dataset
from linfengine.errors import UserError
from linfengine.recipes import load_recipe
from linfengine.train import Trainer, make_plan

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = Path(training.__file__).parents[1]
SOURCES = sorted(FOLDER.rglob("*.py"))


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def digits_run() -> Trainer:
    return Trainer(make_plan(load_recipe("digits", ["width=16"]), load_dataset("digits")))


def test_there_is_one_door() -> None:
    guarded = [path.relative_to(FOLDER).as_posix() for path in SOURCES if "__name__ ==" in path.read_text()]
    assert guarded == ["__main__.py"]
    assert set(main.commands) == {"cpu", "gpu", "gpu-compile", "results", "contention"}
    for name in main.commands:
        shown = invoke(name, "--help")
        assert shown.exit_code == 0
        assert f"python -m benchmarks {name}" in shown.output


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_a_benchmark_knows_nothing_of_the_command_line(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{each.name}" for each in node.names]
        else:
            imported = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        assert not [name for name in imported if name.startswith("linfengine.cli")]


def test_kernels_and_shapes_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kernels, report):
        monkeypatch.setattr(module, "BATCHES", (1, 2))
        monkeypatch.setattr(module, "OUTPUTS", (3,))
        monkeypatch.setattr(module, "INPUTS", (4, 5))
    words = ["kernels", "shapes", "--shape", 4, 5, 6, "--seconds", 0.01, "--no-peers"]
    result = invoke("cpu", *words, "--json", tmp_path / "cpu.json", "--chart", tmp_path / "cpu.png")
    assert result.exit_code == 0, result.output
    assert "B, O, K = 4, 5, 6; peers have B = 4" in result.output
    assert "| p = ∞ forward | **" in result.output
    assert "| B = 2, O = 3 | " in result.output
    record = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert list(record) == ["machine", "shape", "kernels", "shapes"]
    assert {"linfengine", "one thread", "ceiling"} <= {each["who"] for each in record["kernels"]}
    assert all(0 < each["low"] <= each["median"] <= each["high"] for each in record["kernels"])
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_training_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where MNIST is not at hand, on noise of its shape."""

    def only_digits(name: str, download: bool = True) -> Dataset:
        if name != "digits":
            raise UserError("none")
        return load_dataset(name)

    monkeypatch.setattr(mnist, "load_dataset", only_digits)
    monkeypatch.setattr(training, "new_trainer", digits_run)
    noise = mnist.mnist_or_noise()
    few = replace(noise, train_images=noise.train_images[:512], train_labels=noise.train_labels[:512])
    monkeypatch.setattr(training, "mnist_or_noise", lambda: few)
    words = ["training", "ramp", "epoch", "--seconds", 0.01, "--json", tmp_path / "cpu.json"]
    result = invoke("cpu", *words)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [each["p"] for each in record["training"]] == ["8", "64", "inf"]
    assert all(0 < each["share"] < 1 for each in record["training"])
    assert [each["what"] for each in record["ramp"]] == [f"p = {p:g}" for p in training.RAMP]
    assert record["epoch"] > 0


def test_certificates_on_the_cpu(tmp_path: Path) -> None:
    save_model(digits_run().plan.net, tmp_path / "model", dataset="digits")
    result = invoke("cpu", "certify", "--model", tmp_path / "model", "--eps", "1/10", "--seconds", 0.01)
    assert result.exit_code == 0, result.output
    assert "| all test images, ε = 1/10 | ms |" in result.output
    assert "100 samples of the float32 net re-derived by the checker" in result.output
    assert invoke("cpu", "certify").exit_code == 2


def test_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import timing

    monkeypatch.setattr(timing, "ORDERS", (8.0, math.inf))
    monkeypatch.setattr(timing, "ceilings", partial(timing.ceilings, rounds=2))
    result = invoke("gpu", "--batch", 2, "--width", 8, "--turns", 2, "--no-epoch", "--out", tmp_path / "gpu")
    assert result.exit_code == 0, result.output
    for row in ("p = ∞ forward", "p = 8 gradients", "p = inf"):
        assert f"\n| {row} | " in result.output
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert list(record) == ["about", "ceilings", "kernels", "iterations", "torch.cdist", "epoch"]
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def test_compiling_for_a_gpu(tmp_path: Path) -> None:
    """In a process of its own, since the tests put a stand-in in the place of CuPy."""
    command = [sys.executable, "-m", "benchmarks", "gpu-compile", "--json", str(tmp_path / "gpu.json"), "--jobs", "1"]
    words = ["--cc", "9.0", "--only", "Linf<float>, 8, 4"]
    found = subprocess.run([*command, *words], cwd=FOLDER.parent, capture_output=True, text=True)
    if found.returncode == 2 and "CuPy cannot be imported" in found.stderr:
        pytest.skip(found.stderr)
    assert found.returncode == 0, found.stderr
    assert "1 compilations, 0 faults" in found.stdout
    assert "inner loops" in json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    refused = subprocess.run([*command, "--only", "none"], cwd=FOLDER.parent, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "Error: --only must be part of a kernel's name, such as Linf, got 'none'.\n"


def test_two_trainings_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = ("epochs=2", "ramp_start=0", "ramp_end=1", "width=8")
    assert contention.train(tmp_path, settings).wait() == 0
    started = []

    def python(program: str, folder: Path, given: tuple[str, ...]) -> subprocess.Popen[bytes]:
        started.append(given)
        return subprocess.Popen([sys.executable, "-c", program])

    monkeypatch.setattr(contention, "train", partial(python, "pass"))
    result = invoke("contention", "--repeats", 2, "--set", "epochs=2", "--set", "width=8")
    assert result.exit_code == 0, result.output
    assert started == [("epochs=2", "width=8")] * 8
    assert len(result.output.splitlines()) == 3
    assert "\nmedian ratio " in result.output

    monkeypatch.setattr(contention, "train", partial(python, "raise SystemExit(2)"))
    result = invoke("contention")
    assert result.exit_code == 1
    assert result.stderr == "Error: a training failed.\n"
