"""The theorem the project stands on, for neuron, layer and net, on every backend and instruction set:

    ‖f(x) − f(x')‖∞ ≤ L ‖x − x'‖∞   at p = ∞

In exact arithmetic there is no slack. The float32 program rounds: each output may be off by `rounding`, at x and x'.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import arrays, layers

import linfengine as le
from linfengine.backends import available_backends, use_backend
from linfengine.layers import (
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Normalize,
    Sequential,
    Tanh,
    linf_net,
)

Array = npt.NDArray[Any]


def engines() -> list[str]:
    """Every backend present, the compiled one once for each instruction set."""
    if "cpu" not in available_backends():
        return ["reference"]
    from linfengine.backends import cpu

    return ["reference", *(f"cpu-{isa}" for isa in cpu.instruction_sets())]


@pytest.fixture(params=engines())
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    backend, _, isa = request.param.partition("-")
    with use_backend(backend):
        if not isa:
            yield
            return
        from linfengine.backends import cpu

        before = cpu.instruction_set()
        cpu.use_instruction_set(isa)
        yield
        cpu.use_instruction_set(before)


def exact_distance(a: Array, b: Array) -> Fraction:
    """‖a − b‖∞ of float32 arrays, without rounding."""
    return max(abs(Fraction(float(x)) - Fraction(float(y))) for x, y in zip(a.ravel(), b.ravel(), strict=True))


@given(layers(max_groups=1), st.data())
def test_neuron_is_1_lipschitz(engine: None, layer: tuple[Array, Array, int], data: st.DataObject) -> None:
    x, w, _ = layer
    other = data.draw(arrays(x.shape))
    outputs = [le.linf_dist(point, w).numpy() for point in (x, other)]
    # one rounded subtraction for each of the two values
    rounding = 2 * Fraction(2) ** -24 * 201
    assert exact_distance(*outputs) <= exact_distance(x, other) + rounding


@given(layers(max_groups=1), st.data())
def test_neuron_is_1_lipschitz_without_any_slack_on_a_grid(
    engine: None, layer: tuple[Array, Array, int], data: st.DataObject
) -> None:
    """On multiples of 1/64 below 2^18 the subtraction is exact, and so is the theorem."""
    x, w = (np.round(64 * part) / 64 for part in layer[:2])
    other = np.round(64 * data.draw(arrays(x.shape))) / 64
    outputs = [le.linf_dist(point, w).numpy() for point in (x, other)]
    assert exact_distance(*outputs) <= exact_distance(x, other)


def small_nets() -> list[tuple[str, Module]]:
    shape, mean, std = (2, 4, 4), (0.3, 0.6), 0.25
    plain = linf_net(shape, 3, width=9, depth=4, mean=mean, std=std, seed=1)
    convolutional = Sequential(
        Normalize(mean, std),
        LinfDistConv2d(2, 4, 3, padding=1, groups=2, seed=2),
        MeanShift(4),
        LinfDistConv2d(4, 3, 3, stride=2, bias=True, seed=3),
        Flatten(),
        LinfDistDense(3, 3, seed=4),
    )
    with_head = Sequential(
        Normalize(mean, std), Flatten(), LinfDistDense(32, 8, seed=5), Dense(8, 5, seed=6), Tanh(), Dense(5, 3, seed=7)
    )
    rng = np.random.default_rng(0)
    for net in (plain, convolutional, with_head):
        for _, module in net.modules():
            if isinstance(module, MeanShift):
                module.running_mean[...] = rng.normal(3, 1, module.running_mean.shape)
        net.eval()
    return [("plain", plain), ("convolutional", convolutional), ("with head", with_head)]


@pytest.mark.parametrize(("name", "net"), small_nets())
@given(st.data())
def test_net_keeps_its_lipschitz_constant(engine: None, name: str, net: Module, data: st.DataObject) -> None:
    """Of pixels anywhere in [0, 1], near one another or not, up to the rounding the net states for itself."""
    x = data.draw(arrays((1, 2, 4, 4), 0, 1))
    step = data.draw(arrays((1, 2, 4, 4), -1, 1)) * data.draw(st.sampled_from([1.0, 0.1, 1e-3, 1e-6]))
    other = np.clip(x + step, 0, 1).astype(np.float32)
    outputs = [net(point).numpy() for point in (x, other)]
    bound = Fraction(net.lipschitz()) * exact_distance(x, other) + 2 * Fraction(net.rounding(1.0)[0])
    assert exact_distance(*outputs) <= bound


def test_lipschitz_constant_is_attained(engine: None) -> None:
    """Moving the pixel that one logit hangs on moves that logit by L times as much."""
    net = dict(small_nets())["plain"]
    rng = np.random.default_rng(3)
    x = le.Tensor(rng.uniform(0.3, 0.7, (1, 2, 4, 4)).astype(np.float32), requires_grad=True)
    net(x)[0, 0].backward()
    assert x.grad is not None
    step = np.float32(1e-3)
    change = (net(x.data + step * np.sign(x.grad)).numpy() - net(x.data).numpy())[0, 0]
    assert change == pytest.approx(net.lipschitz() * step, rel=1e-2)


def test_finite_p_breaks_the_bound() -> None:
    """Why p must reach ∞: at p = 8 moving every coordinate by δ moves the distance by more than δ."""
    x, w = np.zeros((1, 100), np.float32), np.ones((1, 100), np.float32)
    change = le.lp_dist(x - 0.5, w, p=8).item() - le.lp_dist(x, w, p=8).item()
    assert change == pytest.approx(0.5 * 100 ** (1 / 8), rel=1e-5)
