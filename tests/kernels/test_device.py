"""Tensors, nets, certificates and training on a GPU: where things are, that they are the same there, and what fails.

Where there is no GPU the kernels run on a CPU (see conftest).
"""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.draws import thorough
from support.nets import conv, deep, with_linear_layers
from support.op_cases import Array

from linfengine import cli
from linfengine.attack import pgd
from linfengine.backends import (
    default_device,
    describe_fault,
    device_of,
    gpu,
    resolve_device,
    to_device,
    to_numpy,
    use_backend,
)
from linfengine.backends.cuda import Kernel
from linfengine.backends.cuda.compiler import CompileError
from linfengine.certify import METHODS, certify, predict
from linfengine.checkpoint import load_model, load_tensors, model_content, save_model
from linfengine.data import Dataset, batches, load_dataset, random_crop, random_flip, to_pixels
from linfengine.domain import domain_of
from linfengine.exact import quantize
from linfengine.interval import Interval
from linfengine.layers import Module, Normalize, Sequential, linf_net
from linfengine.ops import linf_dist, lp_dist
from linfengine.optim import SGD, Adam, Optimizer
from linfengine.recipes import Recipe, load_recipe
from linfengine.tensor import Tensor, no_grad
from linfengine.train import BEST, CHECKPOINT, MODEL, Observer, recipe_in, train
from linfengine.train.metrics import METRICS

ROOT = Path(__file__).parents[2]
cupy = gpu.xp


def numbers(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def same_bits(a: Any, b: Any) -> bool:
    a, b = to_numpy(a), to_numpy(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# Tensors.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tensor_goes_there_and_back(dtype: Any) -> None:
    array = numbers(3, 4, dtype=dtype)
    x = Tensor(array, requires_grad=True)
    there = x.to("cuda")
    assert (x.device, there.device) == ("cpu", "cuda")
    assert isinstance(there.data, cupy.ndarray)
    assert (there.shape, there.dtype, there.requires_grad) == ((3, 4), dtype, True)
    assert same_bits(there.numpy(), array)
    assert isinstance(there.numpy(), np.ndarray)
    back = there.to("cpu")
    assert same_bits(back.data, array)
    assert x.to("cpu") is x
    assert there.to("cuda") is there
    assert there.to("auto") is there


def test_a_tensor_is_made_where_it_is_asked_for() -> None:
    array = numbers(2, 3)
    for there in (Tensor(array, device="cuda"), Tensor(cupy.asarray(array)), Tensor(Tensor(array), device="cuda")):
        assert there.device == "cuda"
        assert same_bits(there.data, array)
    there = cupy.asarray(array)
    assert Tensor(there).data is there
    assert Tensor(there, device="cpu").device == "cpu"
    assert Tensor(there.astype(cupy.float16)).dtype == np.float32
    assert Tensor(cupy.arange(3)).numpy().tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match="float32 cannot"):
        Tensor(cupy.asarray([2**24 + 1]))
    with use_backend("gpu"):
        assert default_device() == "cuda"
        assert [Tensor(each).device for each in (array, [0.5], 1, there)] == ["cuda"] * 4
        assert Tensor(array, device="cpu").device == "cpu"
    assert [Tensor(each).device for each in (array, [0.5], there)] == ["cpu", "cpu", "cuda"]


def test_a_tensor_says_where_it_is() -> None:
    x = Tensor([[1, 2]], requires_grad=True)
    assert repr(x) == "Tensor([[1., 2.]], dtype=float32, requires_grad=True)"
    assert repr(x.to("cuda")) == "Tensor([[1., 2.]], dtype=float32, device=cuda, requires_grad=True)"
    assert repr(Tensor(2.0, device="cuda")) == "Tensor(2., dtype=float32, device=cuda)"
    assert float(Tensor([3], device="cuda")) == Tensor([3], device="cuda").item() == 3
    with pytest.raises(TypeError, match=r"call its numpy\(\)"):
        np.asarray(x.to("cuda"))


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_stays_where_the_original_is(copied: Callable[[Tensor], Tensor]) -> None:
    for device in ("cpu", "cuda"):
        x = Tensor(numbers(2, 3), requires_grad=True, device=device)
        y = copied(x)
        assert (y.device, y.requires_grad) == (device, True)
        assert same_bits(y.data, x.data)


def test_moving_cuts_no_gradient_off_unseen() -> None:
    for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
        x = Tensor(numbers(2, 3), requires_grad=True, device=device)
        y = x * 2
        with pytest.raises(RuntimeError, match="would cut off the gradient"):
            y.to(other)
        assert y.to(device) is y
        assert y.detach().to(other).device == other
        loss = y.sum()
        loss.backward()
        assert device_of(x.grad) == device
        with pytest.raises(RuntimeError, match="would cut off the gradient"):
            loss.to(other)
        with no_grad():
            assert (x * 2).to(other).device == other
        assert (Tensor(numbers(2), device=device) * 2).to(other).device == other


def test_arrays_of_the_host_go_where_the_tensors_are() -> None:
    array = numbers(2, 3)
    x = Tensor(array, requires_grad=True, device="cuda")
    results: list[Any] = [
        x + array, array + x, x * 2, 1 - x, array @ x.T, x / array, x[np.array([1, 0])], x[:, [0, 2]], x[array > 0],
        linf_dist(x, array), linf_dist(array, x), lp_dist(x, array, p=8),
    ]  # fmt: skip
    for y in results:
        assert y.device == "cuda"
        assert y.requires_grad
        y.sum().backward()
        assert device_of(x.grad) == "cuda"
    assert same_bits((x + array).data, array + array)
    assert x.to("cpu").grad is None
    bounds = Interval(array - 1, array + 1).to("cuda") + array
    assert bounds.device == "cuda"


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: y * x,
        lambda x, y: x @ y.T,
        lambda x, y: linf_dist(x, y),
        lambda x, y: lp_dist(x, y, p=8),
        lambda x, y: linf_dist(Interval(x, x), y),
        lambda x, y: x + y.data,
        lambda x, y: Interval(x, y),
    ],
)
def test_tensors_on_two_devices_do_not_mix(mix: Callable[[Tensor, Tensor], Any]) -> None:
    x, y = Tensor(numbers(2, 3)), Tensor(numbers(2, 3), device="cuda")
    with pytest.raises(TypeError, match=r"different devices .*\(\d, \d\) on (cpu|cuda) and \(\d, \d\) on (cuda|cpu)\."):
        mix(x, y)


def test_an_interval_goes_there_and_back() -> None:
    low = numbers(2, 3)
    x = Interval(low, low + 1)
    there = x.to("cuda")
    assert (x.device, there.device) == ("cpu", "cuda")
    assert same_bits(there.lower, x.lower)
    assert same_bits(there.upper, x.upper)
    assert there.to("cuda") is there.to("auto") is there
    assert x.to("cpu") is x
    assert same_bits(there.centre, x.centre)
    assert same_bits(there.radius, x.radius)
    assert there.contains(low)
    assert not there.contains(low - 1)
    with pytest.raises(ValueError, match=r"fails at index \(0, 0\)"):
        Interval(there.upper, there.lower)


# Nets.


def filled(net: Any) -> Any:
    """The net with numbers, at evaluation."""
    rng = np.random.default_rng(1)
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
    return net.eval()


def on(net: Any, device: str) -> Any:
    """A copy of the net there."""
    return copy.deepcopy(net).to(device)


NETS: dict[str, Callable[[], Sequential]] = {
    "dense": lambda: filled(deep()),
    "conv": lambda: filled(conv()),
    "exact, on bytes": lambda: quantize(filled(deep()), 0),
    "exact": lambda: quantize(filled(deep()), 8),
    "exact conv": lambda: quantize(filled(conv()), 4),
}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@every_net
def test_a_net_moves_with_all_its_numbers(make: Callable[[], Sequential]) -> None:
    net = make()
    parameters, before = net.parameters(), {name: array.copy() for name, array in net.state().items()}
    means = [to_numpy(layer.mean).copy() for layer in net.layers if isinstance(layer, Normalize)]
    for parameter in parameters.values():
        parameter.grad = np.ones_like(parameter.data)
    for device in ("cuda", "cuda", "cpu", "cuda"):
        assert net.to(device) is net
        assert net.device == device
        assert all(each is parameters[name] for name, each in net.parameters().items())
        assert all(each.grad is None or each.device == "cpu" for each in parameters.values())
        for name, array in net.state().items():
            assert device_of(array) == device
            assert same_bits(array, before[name])
        for layer, mean in zip((each for each in net.layers if isinstance(each, Normalize)), means, strict=True):
            assert device_of(layer.mean) == device
            assert same_bits(layer.mean, mean)
    assert net.lipschitz() == make().lipschitz()
    assert net.rounding(2.0) == make().rounding(2.0)
    assert net.config() == make().config()


@every_net
def test_a_state_is_loaded_from_either_device(make: Callable[[], Sequential]) -> None:
    source = make()
    for here, there in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")):
        net = on(make(), there)
        if not hasattr(net, "fraction_bits"):
            for array in net.state().values():
                array[...] = 0
        arrays = net.state()
        net.load_state(on(source, here).state())
        for name, array in net.state().items():
            assert (array is arrays[name]) == (not hasattr(net, "fraction_bits"))  # an exact net's are never written to
            assert device_of(array) == there
            assert same_bits(array, source.state()[name])


@every_net
def test_both_devices_write_the_same_file_and_give_the_same_logits(
    make: Callable[[], Sequential], tmp_path: Path
) -> None:
    net, images = make(), np.random.default_rng(2).integers(0, 256, (9, 1, 2, 2)).astype(np.uint8)
    x = images if hasattr(net, "fraction_bits") else to_pixels(images)
    logits = predict(net, x)
    save_model(net, tmp_path / "cpu", dataset="digits")
    save_model(on(net, "cuda"), tmp_path / "cuda", dataset="digits")
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()
    with use_backend("gpu"):
        loaded, _ = load_model(tmp_path / "cpu")
    assert loaded.device == "cuda"
    for device in ("cuda", "cpu"):
        moved, _ = load_model(tmp_path / "cuda")
        for each in (moved.to(device), loaded.to(device)):
            assert same_bits(predict(each, x), logits)
            assert same_bits(predict(each, x, batch_size=4), logits)
            assert model_content(each) == model_content(net)


def test_bounds_are_the_same_on_both_devices() -> None:
    for make in (deep, conv):
        net = filled(make())
        x = np.random.default_rng(3).random((5, 1, 2, 2), np.float32)
        ball = Interval(np.maximum(x - np.float32(0.1), 0), np.minimum(x + np.float32(0.1), 1))
        here, there = net(ball), on(net, "cuda")(ball.to("cuda"))
        assert there.device == "cuda"
        assert same_bits(here.lower, there.lower)
        assert same_bits(here.upper, there.upper)


def test_a_net_says_that_what_it_is_given_is_elsewhere() -> None:
    net, x = on(filled(deep()), "cuda"), np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(TypeError, match="different devices"):
        net(Tensor(x))
    with pytest.raises(TypeError, match="different devices"):
        filled(deep())(Tensor(x, device="cuda"))


# Optimizers.


def stepped(net: Module, optimizer: Optimizer, seed: int) -> None:
    """One step down a loss that is the same on both devices."""
    x = Tensor(np.random.default_rng(seed).random((8, 1, 2, 2), np.float32), device=net.device)
    optimizer.zero_grad()
    (net(x) * numbers(8, 3)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [lambda net: SGD(net.parameters(), 0.1, momentum=0.5, weight_decay=0.01, decay_order=net.decay_order),
     lambda net: Adam(net.parameters(), 0.1, weight_decay=0.01, decay_order=net.decay_order)],
    ids=["SGD", "Adam"],
)  # fmt: skip
def test_an_optimizers_state_goes_with_the_net(make: Callable[[Any], Optimizer]) -> None:
    net = filled(deep()).train()
    net.p = 8
    here = make(net)
    for seed in range(3):
        stepped(net, here, seed)
    moved = on(net, "cuda")
    there = make(moved)
    there.load_state(here.state())
    assert there.steps == here.steps == 3
    for name, array in there.state().items():
        assert device_of(array) == ("cpu" if name == "steps" else "cuda")
        assert same_bits(array, here.state()[name])
    stepped(net, here, 3)
    stepped(moved, there, 3)
    for name, array in there.state().items():
        np.testing.assert_allclose(to_numpy(array), here.state()[name], rtol=1e-4, atol=1e-5)
    again = make(net)
    again.load_state(there.state())
    for name, array in again.state().items():
        assert device_of(array) == "cpu"
        assert same_bits(array, there.state()[name])


@pytest.mark.parametrize("make", [SGD, Adam])
@pytest.mark.parametrize("moved", [[0], [1], [2], [0, 1, 2]])
def test_an_optimizer_that_was_left_behind_changes_nothing(make: Any, moved: list[int]) -> None:
    """Whichever of the parameters went to another device: no decay, no moment, no count."""
    parameters = {name: Tensor(numbers(2, 3), requires_grad=True) for name in "abc"}
    optimizer = make(parameters, 0.1, weight_decay=0.1)
    for turn in range(2):
        for i, each in enumerate(parameters.values()):
            if turn and i in moved:
                each.data = to_device(each.data, "cuda")
            each.grad = each.data + 1
        if turn == 0:
            optimizer.step()
    before = [to_numpy(each).copy() for each in (*optimizer.state().values(), *(w.data for w in parameters.values()))]
    with pytest.raises(TypeError, match="different devices"):
        optimizer.step()
    after = [*optimizer.state().values(), *(w.data for w in parameters.values())]
    assert all(same_bits(*pair) for pair in zip(after, before, strict=True))


def test_an_optimizer_is_made_after_a_net_has_moved() -> None:
    net = filled(deep()).train()
    optimizer = Adam(net.parameters(), 0.1, weight_decay=0.1)
    net.to("cuda")
    with pytest.raises(TypeError, match="different devices"):
        stepped(net, optimizer, 0)
    assert optimizer.steps == 0


# Data.


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augmentation_and_batches_draw_the_same_on_both_devices(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (21, 2, 6, 5)).astype(dtype), np.arange(21)

    def draw(images: Any) -> list[Any]:
        rng = np.random.default_rng(1)

        def augment(batch: Any, rng: np.random.Generator) -> Any:
            return random_flip(random_crop(batch, 1, rng, mode="edge"), rng)

        drawn = [random_crop(images, 2, rng), random_flip(images, rng), random_crop(images, 1, rng, mode="edge")]
        for pixels, chosen in batches(images, labels, 8, rng, augment):
            drawn += [pixels, chosen]
        return drawn

    there = cupy.asarray(images)
    for here, moved in zip(draw(images), draw(there), strict=True):
        assert same_bits(here, moved)
    assert [device_of(each) for each in draw(there)] == ["cuda"] * 3 + ["cuda", "cpu"] * 3
    assert same_bits(there, images)


# Certificates and attacks.

TINY = ["loss=hinge", "width=16", "depth=2", "epochs=4", "ramp_start=1", "ramp_end=3", "lr=0.03", "batch_size=32"]


def tiny(*settings: str) -> Recipe:
    return load_recipe("digits", [*TINY, *settings])


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    return replace(digits, train_images=digits.train_images[:100], train_labels=digits.train_labels[:100])


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Sequential:
    return train(tiny("width=32", "epochs=6", "ramp_end=5"), digits, tmp_path_factory.mktemp("trained"))


def assert_same_certificate(a: Any, b: Any) -> None:
    for field in fields(a):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(ours, np.ndarray):
            assert isinstance(theirs, np.ndarray)
            assert same_bits(ours, theirs), field.name
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [None, 0, 8])
def test_both_devices_certify_the_same(bits: int | None, method: str, trained: Sequential, digits: Dataset) -> None:
    if bits is None and method == "exact":
        pytest.skip("for exact nets")
    net = trained if bits is None else quantize(trained, bits)
    images, labels = digits.test_images[:60], digits.test_labels[:60]
    there = on(net, "cuda")
    for eps in ("0", "1/20", "8/255"):
        here = certify(net, images, labels, eps, method=method)
        assert here.certified.any()
        for batch_size in (512, 7):
            assert_same_certificate(here, certify(there, images, labels, eps, method=method, batch_size=batch_size))
        assert_same_certificate(here, certify(there, cupy.asarray(images), cupy.asarray(labels), eps, method=method))


def test_linear_layers_certify_alike_and_their_bounds_hold_across_devices() -> None:
    net = filled(with_linear_layers())
    there = on(net, "cuda")
    x = np.random.default_rng(4).random((40, 1, 2, 2), np.float32)
    logits = predict(net, x)
    labels = logits.argmax(axis=1)
    np.testing.assert_allclose(predict(there, x), logits, rtol=1e-5, atol=1e-5)
    for method in ("margin", "interval"):
        here, moved = (certify(each, x, labels, "1/10000", method=method) for each in (net, there))
        assert same_bits(here.prediction, moved.prediction)
        assert same_bits(here.certified, moved.certified)
        assert here.certified.any()
    rng = np.random.default_rng(5)
    for eps in (Fraction(0), Fraction(1, 100), Fraction(1, 3)):
        ball = domain_of(net).ball(x, eps)
        for bounds in (net(ball), there(ball.to("cuda")).to("cpu")):
            for _ in range(5):
                point = np.clip(rng.choice([ball.lower, ball.upper, x], axis=0), ball.lower, ball.upper)
                for each in (net, there):
                    z = predict(each, point)
                    assert (bounds.lower <= z).all()
                    assert (z <= bounds.upper).all()


@pytest.mark.parametrize(
    "settings", [{}, *map(thorough, [{"restarts": 2, "smooth": True}, {"targeted": True, "rounding": 3}])], ids=str
)
@pytest.mark.parametrize("bits", [None, 4])
def test_an_attack_on_the_gpu_stays_in_the_ball_and_breaks_no_proof(
    bits: int | None, settings: Any, trained: Sequential, digits: Dataset
) -> None:
    net = on(trained if bits is None else quantize(trained, bits), "cuda")
    images, labels = digits.test_images[:30], digits.test_labels[:30]
    eps = Fraction(1, 20)
    proof = certify(net, images, labels, eps)
    attacked = pgd(net, images, labels, eps, steps=4, **settings)
    x = images.astype(np.float32) if bits is not None else to_pixels(images)
    ball = domain_of(net).ball(x, eps, outward=False)
    assert isinstance(attacked.point, np.ndarray)
    assert attacked.point.dtype == np.float32
    assert ((ball.lower <= attacked.point) & (attacked.point <= ball.upper)).all()
    assert attacked.withstood[proof.certified].all()
    assert proof.certified.any()
    assert not attacked.withstood.all()
    for device in ("cpu", "cuda"):  # the point is what the attack says it is
        z = predict(on(net, device), attacked.point)
        true = z[np.arange(30), labels].astype(float)
        z[np.arange(30), labels] = -np.inf
        assert same_bits(true - z.max(axis=1), attacked.margin)
    again = pgd(net, images, labels, eps, steps=4, **settings)
    for column in ("point", "margin", "withstood"):
        assert same_bits(getattr(again, column), getattr(attacked, column))


# Training.


class Stop(Observer):
    """Interrupts in one epoch, at its second step."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        if (epoch, done) == (self.at, 2):
            raise KeyboardInterrupt


def assert_same_run(a: Path, b: Path) -> None:
    assert (a / MODEL).read_bytes() == (b / MODEL).read_bytes()
    tensors, others = (load_tensors(folder / CHECKPOINT)[0] for folder in (a, b))
    assert {name: array.tobytes() for name, array in tensors.items()} == {
        name: array.tobytes() for name, array in others.items()
    }
    recipe = recipe_in(a)
    assert recipe
    best = [BEST] if recipe["held_out"] else []
    assert sorted(os.listdir(a)) == sorted(os.listdir(b)) == [*best, CHECKPOINT, METRICS, MODEL]
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in best)


@pytest.mark.parametrize(
    "settings",
    [thorough(["loss=mixture", "crop_padding=1", "flip=true", "weight_decay=0.001"]), ["held_out=20"]],
    ids=" ".join,
)
def test_a_run_that_is_resumed_ends_with_the_same_bits(settings: list[str], few: Dataset, tmp_path: Path) -> None:
    recipe = tiny(*settings)
    whole = train(recipe, few, tmp_path / "whole", device="cuda")
    assert whole.device == "cuda"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, few, tmp_path / "stopped", device="cuda", observer=Stop(3))
    assert load_tensors(tmp_path / "stopped" / CHECKPOINT)[1]["epoch"] == "2"
    train(recipe, few, tmp_path / "stopped", device="cuda", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_goes_on_on_the_other_device(few: Dataset, tmp_path: Path) -> None:
    recipe = tiny("loss=mixture")
    losses = {}
    for first, second in (("cpu", "cpu"), ("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")):
        out = tmp_path / f"{first}-{second}"
        with pytest.raises(KeyboardInterrupt):
            train(recipe, few, out, device=first, observer=Stop(3))
        model = train(recipe, few, out, device=second, resume=True)
        assert model.device == second
        assert sorted(os.listdir(out)) == [CHECKPOINT, METRICS, MODEL]
        losses[out.name] = [json.loads(line)["loss"] for line in (out / METRICS).read_text().splitlines()]
    for each in losses.values():
        np.testing.assert_allclose(each, losses["cpu-cpu"], rtol=0.1)


@pytest.mark.thorough
def test_a_net_learns_on_the_gpu_as_on_the_cpu(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny("batch_size=64")
    clean = []
    for device in ("cpu", "cuda"):
        net = train(recipe, digits, tmp_path / device, device=device)
        proof = certify(net, digits.test_images, digits.test_labels, "1/20", method="margin")
        clean.append(proof.correct.mean())
        assert proof.certified.mean() > 0.2
    assert clean[0] > 0.5  # chance is 0.1
    assert abs(clean[1] - clean[0]) < 0.1


# What fails says why.


def test_a_device_that_is_none() -> None:
    for use in (
        resolve_device,
        Tensor(1.0).to,
        deep().to,
        Interval(0.0, 1.0).to,
        lambda name: Tensor(1.0, device=name),
        lambda name: to_device(np.zeros(1), name),
    ):
        with pytest.raises(ValueError, match="no device 'tpu': choose one of cpu, cuda or auto"):
            use("tpu")
    assert [resolve_device(name) for name in ("cpu", "cuda", "auto")] == ["cpu", "cuda", "cuda"]


STUB = """
import sys
from types import ModuleType, SimpleNamespace

class CUDARuntimeError(RuntimeError): ...

def count():
    {count}

cupy, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
cupy.__version__, cupy.cuda = "14.0", cuda
cuda.runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError, getDeviceCount=count,
    driverGetVersion=lambda: {driver}, runtimeGetVersion=lambda: 13000,
)
cuda.nvrtc = SimpleNamespace()
sys.modules.update({{"cupy": cupy, "cupy.cuda": cuda}})
"""
REPORT = """
from linfengine import Tensor
from linfengine.backends import available_backends, get_backend, resolve_device
for use in (lambda: get_backend("gpu"), lambda: resolve_device("cuda"), lambda: Tensor([1.0]).to("cuda")):
    try:
        use()
    except ImportError as error:
        print(error)
print(resolve_device("auto"), Tensor([1.0]).to("auto").device, "gpu" in available_backends())
"""
FAILS = "raise CUDARuntimeError('cudaErrorNoDevice: no CUDA-capable device is detected')"


@pytest.mark.parametrize(
    ("program", "environment", "sentence"),
    [
        ("import sys; sys.modules['cupy'] = None", {}, r"CuPy cannot be imported \(.*\): pip install .*\[cuda12\].*"),
        (STUB.format(count=FAILS, driver=0), {}, r"CuPy 14\.0 is installed, but there is no NVIDIA driver"),
        (
            STUB.format(count=FAILS, driver=12040),
            {},
            r"CuPy 14\.0 is installed, but the driver is of CUDA 12\.4 and CuPy is built for CUDA 13\.0: "
            r"install 'linfengine\[cuda12\]' or a newer driver",
        ),
        (STUB.format(count=FAILS, driver=13000), {}, r"CuPy 14\.0 is installed, but cudaErrorNoDevice: .* detected"),
        (STUB.format(count="return 0", driver=13000), {}, r"CuPy 14\.0 is installed, but there is no NVIDIA device"),
        (STUB.format(count="return 1", driver=13000), {"CUPY_TF32": "1"}, r"CUPY_TF32 asks for .*: unset it"),
    ],
    ids=["no CuPy", "no driver", "old driver", "no device", "none of several", "TF32"],
)
def test_a_gpu_that_cannot_be_used(program: str, environment: dict[str, str], sentence: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program + REPORT],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    *told, last = result.stdout.splitlines()
    assert result.stderr == ""
    assert last == "cpu cpu False"
    assert len(told) == 3
    for line in told:
        assert line == told[0]
    assert re.fullmatch("the GPU cannot be used: " + sentence, told[0])


def test_faults_of_the_gpu_are_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, driver = cupy.cuda.memory, cupy.cuda.driver
    told = describe_fault(memory.OutOfMemoryError(10**12, 5 * 10**9))
    assert told is not None
    assert "out of memory" in told
    assert "1,000,000,000,000 bytes" in told
    assert "smaller batch_size or width" in told
    for error in (cupy.cuda.runtime.CUDARuntimeError(719), driver.CUDADriverError(719)):
        told = describe_fault(error)
        assert told is not None
        assert told.startswith("the GPU failed (")
        assert told.endswith("goes on with --resume")
    for error in (
        CompileError("forward.cu(3): error: no"),
        cupy.cuda.compiler.CompileException("forward.cu(3): error: no", "", "entry", (), "nvrtc"),
    ):
        told = describe_fault(error)
        assert told is not None
        assert "forward.cu(3): error: no" in told
    for other in (
        ValueError("no"),
        MemoryError("out of memory"),
        RuntimeError("no"),
        KeyboardInterrupt(),
        ImportError("no"),
    ):
        assert describe_fault(other) is None
    monkeypatch.delitem(sys.modules, "linfengine.backends.gpu")
    assert describe_fault(memory.OutOfMemoryError(10, 10)) is None


def test_a_kernel_that_does_not_compile_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "broken.cu").write_text('#include "kernels.cuh"\n\nundeclared here;\n')
    kernel = Kernel("broken.cu", "broken<float>", "Survey", "float", threads=256, blocks=1, folder=tmp_path)
    with pytest.raises(CompileError, match=r"broken\.cu[:(]3\b") as caught:
        gpu.launch(kernel, 1)
    told = describe_fault(caught.value)
    assert told is not None
    assert told.startswith("a kernel does not compile for this GPU")
    assert "undeclared" in told


def run(*arguments: object) -> Any:
    """The command within this process."""
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def sentence(status: int, stderr: str) -> str:
    """What a mistake is answered with: status 2, one line, no word of Python."""
    assert status == 2, stderr
    assert "Traceback" not in stderr
    assert stderr.count("\n") == 1
    assert stderr.startswith("Error: ")
    assert stderr.endswith(".\n")
    return stderr


@pytest.mark.parametrize(
    "arguments", [["train", "digits", "--out", "OUT"], ["certify", "OUT/model", "--eps", "0.1", "--dataset", "digits"]]
)
def test_a_command_that_finds_no_gpu_says_so(arguments: list[str], tmp_path: Path) -> None:
    save_model(linf_net((1, 8, 8), 10, width=2, depth=1, mean=(0,), std=1), tmp_path / "model")
    words = [word.replace("OUT", str(tmp_path)) for word in arguments]
    result = subprocess.run(
        [sys.executable, "-m", "linfengine", *words, "--device", "cuda"],
        cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert "the GPU cannot be used: " in sentence(result.returncode, result.stderr)
    assert os.listdir(tmp_path) == ["model"]


def test_an_environment_that_asks_for_a_gpu_there_is_not() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "linfengine", "info"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "LINFENGINE_BACKEND": "gpu"},
        capture_output=True,
        text=True,
    )
    assert "the GPU cannot be used: " in sentence(result.returncode, result.stderr)


def test_a_gpu_that_fails_costs_an_epoch_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["loss=mixture", "width=8", "epochs=3", "ramp_end=2", "batch_size=479"]
    words = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    command = ["train", "digits", *words, "--device", "cuda", "--out"]
    assert run(*command, tmp_path / "whole").exit_code == 0
    launch, left = gpu.launch, 20

    def failing(*arguments: Any, **settings: Any) -> None:
        nonlocal left
        left -= (tmp_path / "failed" / METRICS).exists()  # in the second epoch
        if left <= 0:
            raise cupy.cuda.runtime.CUDARuntimeError(719)
        launch(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "launch", failing)
        result = run(*command, tmp_path / "failed")
    told = sentence(result.exit_code, result.stderr)
    assert "the GPU failed" in told
    assert "--resume" in told
    assert sorted(os.listdir(tmp_path / "failed")) == [CHECKPOINT, METRICS]
    assert load_tensors(tmp_path / "failed" / CHECKPOINT)[1]["epoch"] == "1"
    assert run(*command, tmp_path / "failed", "--resume").exit_code == 0
    assert_same_run(tmp_path / "failed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (cupy.cuda.memory.OutOfMemoryError(10**12, 5 * 10**9), ["the GPU is out of memory", "batch_size"]),
        (CompileError("forward.cu(3): error: no such thing"), ["does not compile", "forward.cu(3): error: no such"]),
        (cupy.cuda.runtime.CUDARuntimeError(100), ["the GPU failed"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_fails_at_once_is_told(
    error: Exception, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(gpu, "launch", failing)
    result = run("train", "digits", "--device", "cuda", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert os.listdir(tmp_path / "run") == ["checkpoint.safetensors"]  # of epoch 0: the run can go on


def test_the_command_computes_where_it_is_told_to(tmp_path: Path, trained: Sequential) -> None:
    save_model(trained, tmp_path / MODEL, dataset="digits")
    results = {}
    for device in ("cpu", "cuda", "auto"):
        file = tmp_path / f"{device}.json"
        result = run("certify", tmp_path / MODEL, "--eps", "1/20", "--limit", 40, "--device", device, "--json", file)
        assert result.exit_code == 0, result.output
        results[device] = json.loads(file.read_text())
    assert [results[device].pop("device") for device in ("cpu", "cuda", "auto")] == ["cpu", "cuda", "cuda"]
    for facts in results.values():
        facts.pop("seconds")
    assert results["cpu"] == results["cuda"] == results["auto"]
