"""What the backends refuse: numbers that are not finite, and arrays that do not fit."""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.devices import CPUS, GPU, Device, on_all, on_each
from support.draws import thorough
from support.problems import Array, problem

from linfengine.backends import NO_WINNER, _cpu, cpu, cuda, gpu
from linfengine.backends.cuda.launch import launch
from linfengine.backends.kernels import KERNELS, Argument, Line

BAD = [math.nan, -math.nan, math.inf, -math.inf]
xp = gpu.xp


@on_each
@pytest.mark.parametrize("dtype", [np.float32, thorough(np.float64)])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, *map(thorough, [-math.nan, math.inf])])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (37, 41, 30), *map(thorough, [(7, 10, 27), (101, 91, 64), (101, 131, 64)])], ids=str
)
def test_what_is_not_finite_is_refused_wherever_it_stands(
    shape: tuple[int, int, int], bad: float, dtype: Any, device: Device
) -> None:
    rng = np.random.default_rng(0)
    x, w, _ = problem(*shape, dtype=dtype)
    upper = np.abs(x)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("linf_dist", (x, w)), ("linf_dist_argmax", (x, w)), ("linf_dist_bounds", (x, upper, w)),
        *(("lp_dist", (x, w, p)) for p in (1, 8, 20.3, 64, 1000)),
    ]  # fmt: skip
    for array in (x, w, upper):
        for at in (0, -1, *rng.integers(array.size, size=2)):
            before, array.flat[at] = array.flat[at], bad
            for name, arguments in calls:
                if any(each is array for each in arguments):
                    with pytest.raises(FloatingPointError, match="NaN or infinity"):
                        getattr(device, name)(*arguments)
            array.flat[at] = before
    for name, arguments in calls:
        getattr(device, name)(*arguments)


@on_all
def test_rows_of_nan_are_refused_and_nothing_else_is_read(device: Device) -> None:
    """Hardware maxima may drop NaN or keep it, and then no coordinate attains the maximum."""
    for k in (1, 7, 8, 16, 64, 128, 129):
        for rows in (1, 7, 17):
            x, w = np.full((rows, k), math.nan, np.float32), np.ones((5, k), np.float32)
            with pytest.raises(FloatingPointError):
                device.linf_dist_argmax(x, w)
            one = np.ones_like(x)
            one[-1, -1] = math.nan
            with pytest.raises(FloatingPointError):
                device.linf_dist_argmax(one, w)
            for p in (8, math.inf):
                for each in (x, one):
                    device.changed("lp_decay", each, p, 0.1)  # a diverged net: no result, but no crash either


SIZES = {"n": 5, "o": 4, "k": 3, "gk": 6, "e": 9, "c": 4, "m": 3}
NUMBERS = {"p": 8, "k": 3, "step": 1, "lr": 1.0, "beta1": 0.9, "beta2": 0.9, "eps": 1.0, "amount": 0.1}
DTYPES = {"T": np.float32, "B": np.uint8, "i": np.int32, "d": np.float64}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


def fitting(argument: Argument) -> Any:
    if not argument.shape:
        return NUMBERS[argument.name]
    return np.zeros([SIZES[side] for side in argument.shape], DTYPES[argument.type])


def arguments_of(kernel: Line) -> dict[str, Any]:
    """Arguments that fit: zeros, for two groups."""
    return {each.name: fitting(each) for each in kernel.arguments}


def misfits(kernel: Line, argument: Argument, array: Array) -> Iterator[Any]:
    yield array[..., None]
    yield array[::-1]
    yield array.astype(np.int64)
    if array.ndim > 1:
        yield np.asfortranarray(array)
    if not argument.optional:
        yield None
    sides = [side for each in kernel.arguments for side in each.shape]
    for axis, side in enumerate(argument.shape):
        if sides.count(side) > 1 or side == "gk":  # of any other an array may have as many as it likes
            yield np.delete(array, -1, axis)
            yield np.delete(array, slice(None), axis)


@kernels
def test_a_kernel_refuses_arrays_that_do_not_fit(kernel: Line) -> None:
    """Each would otherwise be read or written past its end."""
    right, groups = arguments_of(kernel), 2 if "gk" in kernel.signature else 1
    _cpu.run(kernel.name, tuple(right.values()), groups)
    arrays = {each.name: each for each in kernel.arguments if each.shape}
    for name, argument in arrays.items():
        for other in misfits(kernel, argument, right[name]):
            with pytest.raises((ValueError, TypeError)):
                _cpu.run(kernel.name, tuple((right | {name: other}).values()), groups)
    for groups in (0, -1, 3, 2**62) if "gk" in kernel.signature else (0, -1):
        with pytest.raises(ValueError, match="groups"):
            _cpu.run(kernel.name, tuple(right.values()), groups)
    with pytest.raises(TypeError, match="arguments are expected"):
        _cpu.run(kernel.name, tuple(right.values())[:-1], groups)


@kernels
def test_a_kernel_writes_into_no_array_that_is_read_only(kernel: Line) -> None:
    for argument in kernel.arguments:
        if argument.written:
            arguments = arguments_of(kernel)
            arguments[argument.name].flags.writeable = False
            with pytest.raises((ValueError, BufferError)):
                _cpu.run(kernel.name, tuple(arguments.values()), 2 if "gk" in kernel.signature else 1)


@pytest.mark.parametrize("name", ["adam_step", "lp_decay"])
def test_a_step_on_nothing_does_nothing(name: str) -> None:
    arguments = arguments_of(KERNELS[name])
    empty = {key: value[:0] if isinstance(value, np.ndarray) else value for key, value in arguments.items()}
    _cpu.run(name, tuple(empty.values()))


def test_what_a_kernel_takes_is_said_in_a_sentence() -> None:
    x, w, _ = problem(3, 4, 5)
    sentence = r"^linf_dist: expected C-contiguous x \(n, groups\*k\), w .*; got float32 \(3, "
    with pytest.raises(ValueError, match=sentence):
        cpu.linf_dist(x[:, :-1].copy(), w)
    with pytest.raises(ValueError, match=r"got float32 \(3, 5\), float64 \(4, 5\), float32 \(3, 4\)"):
        cpu.lp_dist(x, w.astype(np.float64), 8)
    assert KERNELS["linf_dist_backward"].takes == (
        "g (n, o), winner (n, o) of int32, grad_x (n, groups*k) or None, grad_w (o, k) or None, "
        "all of float32 or all of float64"
    )


def test_arguments_may_be_named_as_in_the_interface() -> None:
    x, w, _ = problem(3, 4, 5)
    assert (cpu.linf_dist(x=x, w=w, groups=1) == cpu.linf_dist(x, w)).all()
    for wrong in ({}, {"x": x}, {"x": x, "w": w, "v": w}):
        with pytest.raises(TypeError, match="argument"):
            cpu.linf_dist(**wrong)


@pytest.mark.parametrize("device", CPUS, ids=str)
@pytest.mark.parametrize("winner", [5, 2**31 - 1, ~5, -(2**31) + 1])
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_a_winner_that_is_no_input_is_refused(winner: int, needs: tuple[bool, bool], device: Device) -> None:
    winners = np.full((3, 4), NO_WINNER, np.int32)
    winners[-1, -1] = winner
    with pytest.raises(ValueError, match=r"a winner is not k or ~k with 0 <= k < 5"):
        device.linf_dist_backward(np.ones((3, 4), np.float32), winners, 5, needs=needs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out": np.float32(1)}, "out must be an array on the GPU, not float32"),
        ({"out": 1}, "out must be an array on the GPU, not int"),
        ({"out": np.zeros(3, np.float32)}, "out must be an array on the GPU, not ndarray"),
        ({"out": xp.zeros(3, np.float64)}, "out must be float32, not float64"),
        ({"a": xp.zeros(3, np.int32)}, "a must be float32, not int32"),
        ({"a": xp.zeros((3, 2), np.float32)[:, 0]}, "a must be C-contiguous"),
        ({"count": xp.ones((), np.int64)}, "count must be a number, not ndarray"),
        ({"shift": np.ones(1, np.int32)}, "shift must be a number, not ndarray"),
    ],
)
def test_a_launch_refuses_what_does_not_fit_its_field(wrong: dict[str, Any], message: str) -> None:
    out = xp.zeros(3, np.float32)
    arguments = {"a": xp.ones(3, np.float32), "out": out, "count": 3, "shift": 1} | wrong
    with pytest.raises(TypeError, match=rf"scale<float>: {re.escape(message)}"):
        launch(cuda.step("scale", "float"), 1, **arguments)
    assert not out.any()


def test_winners_on_the_gpu_are_int32() -> None:
    with pytest.raises(TypeError, match="winner must be int32, not int64"):
        GPU.linf_dist_backward(np.ones((2, 2), np.float32), np.zeros((2, 2), np.int64), 3)
