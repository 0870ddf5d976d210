"""Optimizers against steps computed by hand, in fractions and as sums over the past; lp decay against its laws."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws
from support.op_cases import Array
from support.strategies import arrays

from linfengine import Tensor
from linfengine.backends import to_numpy
from linfengine.layers import Dense, Flatten, LinfDistConv2d, LinfDistDense, Sequential
from linfengine.losses import mixture, robust_cross_entropy
from linfengine.optim import SGD, Adam, Optimizer, lp_decay
from linfengine.tensor import as_array


def parameter(*numbers: float, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.array(numbers, dtype), requires_grad=True)


def walk(optimizer: Optimizer, gradients: list[Array]) -> None:
    """One step for each gradient of the parameter "w"."""
    for g in gradients:
        optimizer.zero_grad()
        w = optimizer.parameters["w"]
        w.grad = as_array(np.array(g, w.dtype))
        optimizer.step()


def make_sgd(parameters: Mapping[str, Tensor], lr: float = 0.1, **settings: Any) -> Optimizer:
    return SGD(parameters, lr, momentum=0.5, **settings)


def make_adam(parameters: Mapping[str, Tensor], lr: float = 0.1, **settings: Any) -> Optimizer:
    return Adam(parameters, lr, **settings)


every_optimizer = pytest.mark.parametrize("make", [make_sgd, make_adam], ids=["SGD", "Adam"])


# steps


def test_sgd_by_hand() -> None:
    """g = 1, then 2, then -1 at momentum 1/2: v = 1, 2.5, 0.25."""
    w = parameter(1, 10)
    optimizer = SGD({"w": w}, 0.5, momentum=0.5)
    path = []
    for g in (1, 2, -1):
        walk(optimizer, [np.full(2, g)])
        path.append(w.numpy().copy())
    np.testing.assert_array_equal(path, [[0.5, 9.5], [-0.75, 8.25], [-0.875, 8.125]])


def test_plain_sgd_is_gradient_descent() -> None:
    w = parameter(1)
    walk(SGD({"w": w}, 0.25), [np.array([4]), np.array([-8])])
    np.testing.assert_array_equal(w.numpy(), [2])


@draws(50)
@given(data=st.data(), momentum=st.sampled_from([0, 0.5, 0.9]))
def test_sgd_sums_up_the_past(data: st.DataObject, momentum: float) -> None:
    """w_T = w_0 - lr sum_t v_t,  v_t = sum_{s <= t} momentum^(t - s) g_s."""
    gradients = data.draw(arrays((5, 3), -8, 8)).astype(np.float64)
    w = parameter(1, 2, 3)
    walk(SGD({"w": w}, 0.125, momentum=momentum), list(gradients))
    shares = [sum(momentum**k for k in range(5 - s)) for s in range(5)]
    expected = np.array([1, 2, 3]) - 0.125 * (np.array(shares)[:, None] * gradients).sum(axis=0)
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-12, atol=1e-12)


def adam_path(w: float, gradients: list[float], lr: float, beta1: float, beta2: float, eps: float) -> list[float]:
    """Kingma and Ba's moments written out as weighted means of all gradients so far."""
    path = []
    for t in range(1, len(gradients) + 1):
        means = []
        for beta, power in ((beta1, 1), (beta2, 2)):
            weights = [beta ** (t - s) for s in range(1, t + 1)]
            means.append(math.fsum(b * g**power for b, g in zip(weights, gradients, strict=False)) / math.fsum(weights))
        w -= lr * means[0] / (math.sqrt(means[1]) + eps)
        path.append(w)
    return path


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0, 0), (0.5, 0.999)])
def test_adam_is_a_step_of_weighted_means(backend: str, betas: tuple[float, float]) -> None:
    gradients = [1.0, -3.0, 0.5, 0.0, 20.0, 1e-3]
    w = parameter(2.0)
    optimizer = Adam({"w": w}, 0.1, betas=betas, eps=1e-3)
    for g, expected in zip(gradients, adam_path(2.0, gradients, 0.1, *betas, 1e-3), strict=True):
        walk(optimizer, [np.array([g])])
        np.testing.assert_allclose(w.numpy(), [expected], rtol=1e-12)


def test_adam_by_hand(backend: str) -> None:
    """The first step is lr g/(|g| + eps) whatever the betas; of a second, equal gradient the means are the same."""
    w = parameter(1, 1, 1)
    walk(Adam({"w": w}, 0.25, eps=1e-30), [np.array([4, -0.5, 1e-3])])
    np.testing.assert_allclose(w.numpy(), [0.75, 1.25, 0.75], rtol=1e-14)
    w = parameter(1)
    walk(Adam({"w": w}, 0.25, eps=1), [np.array([3]), np.array([3])])
    np.testing.assert_allclose(w.numpy(), [1 - 2 * 0.25 * 3 / 4], rtol=1e-14)


def test_adam_in_float32(backend: str) -> None:
    gradients = [1.0, -3.0, 0.5, 2.0]
    w = parameter(2.0, dtype=np.float32)
    walk(Adam({"w": w}, 0.03), [np.array([g]) for g in gradients])
    assert w.dtype == np.float32
    np.testing.assert_allclose(w.numpy(), adam_path(2.0, gradients, 0.03, 0.9, 0.99, 1e-10)[-1:], rtol=1e-6)


def test_adam_stays_where_there_is_no_slope(backend: str) -> None:
    """eps keeps 0/0 away."""
    w = parameter(1, 2)
    walk(Adam({"w": w}, 0.1), [np.zeros(2)] * 3)
    np.testing.assert_array_equal(w.numpy(), [1, 2])


@every_optimizer
def test_shapes_do_not_matter(backend: str, make: Callable[..., Optimizer]) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(24), rng.standard_normal((3, 24))
    ends = []
    for shape in [(24,), (4, 6), (2, 3, 2, 2)]:
        w = Tensor(start.reshape(shape).copy(), requires_grad=True)
        walk(make({"w": w}), [g.reshape(shape) for g in gradients])
        ends.append(w.numpy().reshape(-1))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
    single = Tensor(start[0], requires_grad=True)
    walk(make({"w": single}), [g[0] for g in gradients])
    np.testing.assert_array_equal(single.numpy(), ends[0][0])


@every_optimizer
def test_a_parameter_without_gradient_stays(backend: str, make: Callable[..., Optimizer]) -> None:
    """Decay included."""
    w, frozen = parameter(1), parameter(1)
    walk(make({"w": w, "frozen": frozen}, weight_decay=0.5), [np.ones(1)])
    assert w.numpy()[0] < 1
    np.testing.assert_array_equal(frozen.numpy(), [1])


@every_optimizer
def test_zero_grad_forgets(make: Callable[..., Optimizer]) -> None:
    w = parameter(1)
    w.grad = np.ones(1)
    make({"w": w}).zero_grad()
    assert w.grad is None


@every_optimizer
def test_the_rate_of_single_parameters(backend: str, make: Callable[..., Optimizer]) -> None:
    """A rate scaled by 1/4 is a rate of lr/4, for the step and for the decay."""
    ends = []
    for optimizer in (
        make({"w": parameter(1)}, 0.2, weight_decay=0.5, rate_scale={"w": 0.25, "absent": 9}),
        make({"w": parameter(1)}, 0.05, weight_decay=0.5),
        make({"w": parameter(1)}, 0.2, weight_decay=0.5),
    ):
        walk(optimizer, [np.array([3.0]), np.array([1.0])])
        ends.append(optimizer.parameters["w"].item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-14)
    assert ends[0] != pytest.approx(ends[2], rel=1e-3)


@every_optimizer
def test_a_schedule_may_change_the_rate(backend: str, make: Callable[..., Optimizer]) -> None:
    w = parameter(1)
    optimizer = make({"w": w})
    walk(optimizer, [np.ones(1)])
    optimizer.lr = 0
    before = w.item()
    walk(optimizer, [np.ones(1)])
    assert w.item() == before


# resuming


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_resumed_run_continues_to_the_bit(backend: str, make: Callable[..., Optimizer], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    gradients = [g.astype(dtype) for g in rng.standard_normal((10, 3, 4))]
    start = rng.standard_normal((3, 4)).astype(dtype)

    whole = make({"w": Tensor(start.copy(), requires_grad=True)}, weight_decay=0.01)
    walk(whole, gradients)

    first = make({"w": Tensor(start.copy(), requires_grad=True)}, weight_decay=0.01)
    walk(first, gradients[:4])
    saved = {name: array.copy() for name, array in first.state().items()}
    second = make({"w": Tensor(first.parameters["w"].numpy().copy(), requires_grad=True)}, weight_decay=0.01)
    second.load_state(saved)
    walk(first, gradients[:1])  # what was saved does not change along
    walk(second, gradients[4:])

    np.testing.assert_array_equal(second.parameters["w"].numpy(), whole.parameters["w"].numpy())
    assert second.state().keys() == whole.state().keys()
    for name, array in whole.state().items():
        np.testing.assert_array_equal(to_numpy(second.state()[name]), to_numpy(array))
    assert whole.state()["steps"] == 10


@every_optimizer
def test_a_reset_makes_the_next_step_a_first_one(backend: str, make: Callable[..., Optimizer]) -> None:
    """To the bit: of a fresh optimizer at the same weights, whose rate and decay it keeps."""
    rng = np.random.default_rng(0)
    gradients = list(rng.standard_normal((5, 3, 4)))
    used = make({"w": Tensor(rng.standard_normal((3, 4)), requires_grad=True)}, 0.3, weight_decay=0.01)
    walk(used, gradients)
    used.lr = 0.05
    weights, kept = used.parameters["w"].numpy().copy(), used.state()
    used.reset()
    np.testing.assert_array_equal(used.parameters["w"].numpy(), weights)
    fresh = make({"w": Tensor(weights.copy(), requires_grad=True)}, 0.05, weight_decay=0.01)
    for steps in range(3):
        assert used.steps == steps
        assert used.state().keys() == fresh.state().keys()
        for name, array in fresh.state().items():
            np.testing.assert_array_equal(to_numpy(used.state()[name]), to_numpy(array))
        np.testing.assert_array_equal(used.parameters["w"].numpy(), fresh.parameters["w"].numpy())
        for optimizer in (used, fresh):
            walk(optimizer, gradients[steps : steps + 1])
    assert (weights != used.parameters["w"].numpy()).all()
    assert all(used.state()[name] is array for name, array in kept.items() if name != "steps")


def test_what_a_state_holds() -> None:
    assert set(SGD({"w": parameter(1)}, 0.1).state()) == {"steps", "velocity.w"}
    assert set(Adam({"a": parameter(1), "b": parameter(1)}, 0.1).state()) == {"steps", "m.a", "m.b", "v.a", "v.b"}


@every_optimizer
@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_a_state_that_does_not_fit_changes_nothing(make: Callable[..., Optimizer], shape: tuple[int, ...]) -> None:
    optimizer = make({"w": parameter(1, 2, 3)})
    walk(optimizer, [np.ones(3)])
    before = {name: array.copy() for name, array in optimizer.state().items()}
    last = list(before)[-1]
    for change, message in (
        (lambda state: state.pop(last), f"state lacks {last}"),
        (lambda state: state.update({last: np.zeros(shape)}), rf"{last}: expected .*\(3,\).*, got"),
        (lambda state: state.update({last: np.zeros(3, np.float32)}), rf"{last}: expected float64 .*, got float32"),
        (lambda state: state.update(steps=np.array(-1)), "steps must be a whole number from 0 on, got -1"),
        (lambda state: state.update(steps=np.array(1.5)), r"steps: expected int64 \(\), got float64 \(\)"),
        (lambda state: state.update(steps=np.array([1])), r"steps: expected int64 \(\), got int64 \(1,\)"),
    ):
        state = {name: array + 1 for name, array in before.items()}
        change(state)
        with pytest.raises(ValueError, match=message):
            optimizer.load_state(state)
        for name, array in optimizer.state().items():
            np.testing.assert_array_equal(array, before[name])


# settings


@every_optimizer
@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
@pytest.mark.parametrize("setting", ["lr", "weight_decay", "rate_scale"])
def test_settings_that_are_none(make: Callable[..., Optimizer], setting: str, value: float) -> None:
    settings = {setting: {"w": value} if setting == "rate_scale" else value}
    with pytest.raises(ValueError, match=f"{setting}.* must be finite and not negative, got"):
        make({"w": parameter(1)}, **settings)


def test_settings_of_their_own_that_are_none() -> None:
    for momentum in (-0.1, math.nan):
        with pytest.raises(ValueError, match="momentum must be finite and not negative"):
            SGD({"w": parameter(1)}, 0.1, momentum=momentum)
    with pytest.raises(ValueError, match="eps must be positive and finite"):
        Adam({"w": parameter(1)}, 0.1, eps=0)
    for betas in ((0.9, 1), (-0.1, 0.9), (math.nan, 0.9)):
        with pytest.raises(ValueError, match=r"betas must lie in \[0, 1\)"):
            Adam({"w": parameter(1)}, 0.1, betas=betas)


@every_optimizer
def test_a_parameter_that_cannot_be_written_in_place(make: Callable[..., Optimizer]) -> None:
    """A step on a copy would be lost without a word."""
    turned = Tensor(np.ones((2, 3)).T, requires_grad=True)
    with pytest.raises(ValueError, match="parameter w must be C-contiguous"):
        make({"w": turned})


# one weight under two names, and memory of two


def changed_by(make: Callable[..., Optimizer], gradients: list[Array], parameters: Mapping[str, Tensor]) -> Optimizer:
    """The optimizer, after a step for each gradient of every parameter."""
    optimizer = make(parameters, weight_decay=0.1)
    for g in gradients:
        for each in parameters.values():
            each.grad = as_array(g.copy())
        optimizer.step()
    return optimizer


@every_optimizer
@given(gradients=arrays((3, 2, 2), -8, 8), names=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
def test_a_weight_under_several_names_is_stepped_once(
    make: Callable[..., Optimizer], gradients: Array, names: list[str]
) -> None:
    shared, single = (Tensor(np.ones((2, 2), np.float32), requires_grad=True) for _ in range(2))
    optimizer = changed_by(make, list(gradients), dict.fromkeys(names, shared))
    expected = changed_by(make, list(gradients), {names[0]: single})
    assert list(optimizer.parameters) == names[:1]
    np.testing.assert_array_equal(shared.numpy(), single.numpy())
    assert optimizer.state().keys() == expected.state().keys()
    for name, array in expected.state().items():
        np.testing.assert_array_equal(optimizer.state()[name], array)


@every_optimizer
def test_a_layer_used_twice_is_trained_as_one(backend: str, make: Callable[..., Optimizer]) -> None:
    """As in a net that has the layer once and calls it twice."""
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    layer, twin = (LinfDistDense(3, 3, seed=0) for _ in range(2))
    borrower = LinfDistDense(3, 3)
    borrower.weight = layer.weight
    for net, parameters in (
        (lambda x: borrower(layer(x)), Sequential(layer, borrower).parameters()),
        (lambda x: twin(twin(x)), twin.parameters()),
    ):
        optimizer = make(parameters, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(Tensor(x)).sum().backward()
            optimizer.step()
    np.testing.assert_array_equal(layer.weight.numpy(), twin.weight.numpy())
    both = {"0.weight": layer.weight, "1.weight": layer.weight}
    assert set(make(both).parameters) == set(Sequential(layer, layer).parameters()) == {"0.weight"}


@every_optimizer
def test_names_of_one_weight_have_one_rate(make: Callable[..., Optimizer]) -> None:
    w = parameter(1)
    make({"a": w, "b": w}, rate_scale={"a": 0.5, "b": 0.5})
    for scales in ({"a": 0.5}, {"b": 0.5}, {"a": 0.5, "b": 0.25}):
        with pytest.raises(ValueError, match="b and a are one Tensor and need the same rate_scale"):
            make({"a": w, "b": w}, rate_scale=scales)


@every_optimizer
def test_two_parameters_do_not_share_memory(backend: str, make: Callable[..., Optimizer]) -> None:
    room = as_array(np.zeros((4, 3), np.float32))
    parts = [Tensor(room[rows], requires_grad=True) for rows in (slice(2), slice(2, 4), slice(1, 3), slice(2, 2))]
    lower, upper, middle, empty = parts
    make({"lower": lower, "upper": upper, "empty": empty})
    for parameters, names in (
        ({"lower": lower, "upper": upper, "middle": middle}, "lower and middle"),
        ({"all": Tensor(room), "upper": upper}, "all and upper"),
        ({"upper": upper, "again": Tensor(upper.data)}, "again and upper"),
    ):
        with pytest.raises(ValueError, match=f"parameters {names} share memory: use one Tensor under both names"):
            make(parameters)


@every_optimizer
def test_memory_that_is_shared_later_is_told(make: Callable[..., Optimizer]) -> None:
    a, b = parameter(1, 2), parameter(3, 4)
    optimizer = make({"a": a, "b": b})
    b.data = a.data
    a.grad = b.grad = np.ones(2)
    with pytest.raises(ValueError, match="parameters a and b share memory"):
        optimizer.step()
    np.testing.assert_array_equal(a.numpy(), [1, 2])


# whole steps or none


def everything_of(optimizer: Optimizer) -> dict[str, Array]:
    state = {name: to_numpy(array).copy() for name, array in optimizer.state().items()}
    return state | {f"data.{name}": each.numpy().copy() for name, each in optimizer.parameters.items()}


def refused(optimizer: Optimizer, error: type[Exception], message: str) -> None:
    """A step raises and changes nothing, nor does the optimizer forget how many there were."""
    before = everything_of(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step()
    for name, array in everything_of(optimizer).items():
        np.testing.assert_array_equal(array, before[name])


@every_optimizer
@pytest.mark.parametrize("place", range(3))
def test_a_gradient_that_does_not_fit_changes_nothing(make: Callable[..., Optimizer], place: int) -> None:
    """A Tensor refuses it, and one that was reshaped later is refused by the step."""
    names = ["a", "b", "c"]
    weights = {name: Tensor(np.ones((2, 3), np.float32), requires_grad=True) for name in names}
    optimizer = make(weights, weight_decay=0.1)
    for each in weights.values():
        each.grad = np.ones((2, 3), np.float32)
    optimizer.step()
    chosen = weights[names[place]]
    for grad in (np.zeros(1, np.float32), np.zeros((2, 3)), 0.5, Tensor(np.zeros((2, 3), np.float32))):
        with pytest.raises(ValueError, match="grad: expected None or an array of shape"):
            chosen.grad = grad  # type: ignore[assignment]
    assert chosen.grad is not None
    chosen.grad.shape = 3, 2
    refused(optimizer, ValueError, rf"the gradient of {names[place]}: expected float32 \(2, 3\), got float32 \(3, 2\)")


@every_optimizer
def test_a_gradient_may_lie_in_any_order(backend: str, make: Callable[..., Optimizer]) -> None:
    g = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    ends = []
    for grad in (as_array(g), as_array(np.asfortranarray(g)), as_array(np.repeat(g, 2, axis=1))[:, ::2]):
        w = Tensor(np.ones((3, 4), np.float32), requires_grad=True)
        optimizer = make({"w": w})
        w.grad = grad
        optimizer.step()
        ends.append(w.numpy().tobytes())
    assert ends[0] == ends[1] == ends[2]


@every_optimizer
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: setattr(o, "lr", math.nan), "lr must be finite and not negative, got nan"),
        (lambda o: setattr(o, "weight_decay", -1), "weight_decay must be finite and not negative, got -1"),
        (lambda o: setattr(o, "steps", -3), "steps must be a whole number from 0 on, got -3"),
        (lambda o: setattr(o, "steps", 1.5), "steps must be a whole number from 0 on, got 1.5"),
        (lambda o: setattr(o, "decay_order", lambda name: 0.5 if name == "b" else 2), "decay_order of b must be at"),
        (lambda o: o.parameters["b"].data.setflags(write=False), "parameter b must be writable"),
    ],
    ids=["lr", "weight_decay", "negative steps", "broken steps", "decay_order", "read-only"],
)
def test_settings_that_became_none_change_nothing(
    make: Callable[..., Optimizer], change: Callable[[Optimizer], None], message: str
) -> None:
    weights = {"a": parameter(1, 2), "b": parameter(3)}
    optimizer = make(weights, weight_decay=0.1)
    for each in weights.values():
        each.grad = np.ones_like(each.data)
    optimizer.step()
    change(optimizer)
    refused(optimizer, ValueError, message)


@every_optimizer
def test_a_moment_that_was_replaced_is_told(make: Callable[..., Optimizer]) -> None:
    for moment in (np.zeros(1), np.zeros(3, np.float32), np.zeros(6)[::2]):
        w = parameter(1, 2, 3)
        optimizer = make({"w": w})
        w.grad = np.ones(3)
        vars(optimizer)["velocity" if isinstance(optimizer, SGD) else "v"]["w"] = moment
        with pytest.raises(ValueError, match="the optimizer's moment of w"):
            optimizer.step()
        assert (w.numpy() == [1, 2, 3]).all()
        assert optimizer.steps == 0


# floating-point errors


@every_optimizer
@pytest.mark.parametrize("p", [1.5, 8, 50.5, math.inf])
def test_a_whole_step_is_the_same_where_floating_point_errors_raise(
    backend: str, make: Callable[..., Optimizer], p: float
) -> None:
    """Probabilities, gradients, moments and weights of it underflow."""
    rng = np.random.default_rng(0)
    x, labels = rng.random((8, 6), np.float32), rng.integers(0, 4, 8)
    x[0] *= np.float32(1e-30)
    ends = []
    for error in ("ignore", "raise"):
        last = LinfDistDense(5, 4, bias=True, seed=1)
        last.weight.data[0, 0] = 1e-38
        net = Sequential(LinfDistDense(6, 5, seed=0), last)
        net.p = p
        scale = Tensor(np.full(1, 60, np.float32), requires_grad=True)
        optimizer = make(
            net.parameters() | {"scale": scale},
            0.01,
            weight_decay=0.01,
            decay_order=lambda name: p if "w" in name else 2,
        )
        with np.errstate(all=error):
            for _ in range(3):
                optimizer.zero_grad()
                loss = mixture(-net(Tensor(x)), labels, 0.1, 0.5, scale) + robust_cross_entropy(net(x), labels, 1e-30)
                (loss * 1e-30).backward()
                optimizer.step()
        ends.append({name: array.tobytes() for name, array in everything_of(optimizer).items()})
    assert ends[0] == ends[1]


@pytest.mark.parametrize("p", [1, 1.5, 2, 8, 300, math.inf])
def test_lp_decay_of_tiny_weights_is_no_error(backend: str, p: float) -> None:
    w = np.array([[1, 1e-30, 1e-44, 0], [1e-38, -2e-45, 0, 3e-39]], np.float32)
    with np.errstate(all="raise"):
        after = as_array(w.copy())
        lp_decay(after, p, 1e-3)
    expected = as_array(w.copy())
    lp_decay(expected, p, 1e-3)
    assert to_numpy(after).tobytes() == to_numpy(expected).tobytes()


# lp decay


def decayed(w: Any, p: float, amount: float) -> Array:
    w = np.array(w, np.float64) if not isinstance(w, np.ndarray) else w.copy()
    assert lp_decay(w, p, amount) is None
    return w


FINITE_ORDERS = [1, 1.5, 2, 3, 8, 100, 1000]


def test_lp_decay_at_3_by_hand() -> None:
    """3^3 + 4^3 + 5^3 = 6^3, so the norm of the first row is 6: w_k <- w_k - a (|w_k|/6) w_k."""
    w = decayed([[3, -4, 5], [0, 0, -2]], 3, 0.5)
    expected = [[3 - Fraction(9, 12), -4 + Fraction(16, 12), 5 - Fraction(25, 12)], [0, 0, -1]]
    np.testing.assert_allclose(w, np.array(expected, float), rtol=1e-14)


def test_lp_decay_at_1_by_hand() -> None:
    """Every entry loses the norm times a, in the direction of 0: (w_k/|w_k|) ||w||_1."""
    np.testing.assert_allclose(decayed([[1, -2, 0, 5]], 1, 0.125), [[0, -1, 0, 4]], rtol=1e-14, atol=1e-15)


@given(w=arrays((3, 4)))
def test_lp_decay_at_2_is_ordinary_decay(w: Array) -> None:
    """To the bit."""
    np.testing.assert_array_equal(decayed(w, 2, 0.25), w * np.float32(0.75))
    np.testing.assert_array_equal(decayed(w, 2.0, 0.01), w * np.float32(0.99))


@given(w=arrays((3, 4)))
def test_lp_decay_is_continuous_at_2(w: Array) -> None:
    w = w.astype(np.float64)
    for p in (2 - 1e-9, 2 + 1e-9):
        np.testing.assert_allclose(decayed(w, p, 0.25), 0.75 * w, rtol=1e-6, atol=1e-40)


def test_lp_decay_at_infinity_by_hand() -> None:
    """Only the largest of a row, the first of several."""
    w = [[1, -4, 2], [-3, 3, 3], [0, 0, 0], [0, 5, -5]]
    np.testing.assert_array_equal(decayed(w, math.inf, 0.25), [[1, -3, 2], [-2.25, 3, 3], [0, 0, 0], [0, 3.75, -5]])


@given(w=arrays((3, 4)), amount=st.sampled_from([0.0, 0.25, 1.0]))
def test_lp_decay_at_infinity_touches_one_entry_of_a_row(w: Array, amount: float) -> None:
    after = decayed(w, math.inf, amount)
    for row, before in zip(after, w, strict=True):
        k = max(range(4), key=lambda k: abs(before[k]))  # Python's max is the first of equals
        assert row[k] == pytest.approx(before[k] * (1 - amount), rel=1e-6)
        np.testing.assert_array_equal(np.delete(row, k), np.delete(before, k))


def exact_decay(row: Array, p: int, amount: Fraction) -> list[float]:
    """For a whole p: the ratio to the norm by logarithms of fractions, which do not overflow."""
    sizes = [abs(Fraction(float(value))) for value in row]
    total = sum((size**p for size in sizes), Fraction(0))
    after = []
    for value, size in zip(row, sizes, strict=True):
        factor = float(size**p / total) ** ((p - 2) / p) if size else 0.0
        after.append(float(value) * (1 - float(amount) * factor))
    return after


@draws(50)
@given(
    w=arrays((2, 3), -8, 8).filter(lambda w: (np.abs(w) > 2**-6).all()),
    p=st.sampled_from([1, 3, 8, 24, 100]),
    amount=st.sampled_from([Fraction(1, 64), Fraction(1, 2)]),
)
def test_lp_decay_is_its_formula_in_fractions(w: Array, p: int, amount: Fraction) -> None:
    """(|w_k|/||w||_p)^(p-2) = (|w_k|^p / sum_j |w_j|^p)^((p-2)/p)."""
    expected = [exact_decay(row, p, amount) for row in w]
    np.testing.assert_allclose(decayed(w.astype(np.float64), p, float(amount)), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(decayed(w, p, float(amount)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [1, 1.5, 3, 8])
def test_lp_decay_descends_half_the_squared_norm(p: float) -> None:
    """The step is the gradient of ||w||_p^2 / 2 by rows, here by central differences."""
    w = np.random.default_rng(0).standard_normal((2, 3))
    step = (w - decayed(w, p, 1e-3)) / 1e-3
    for o, k in np.ndindex(2, 3):
        h = np.zeros((2, 3))
        h[o, k] = 1e-6
        ahead, behind = ((np.abs(w + sign * h) ** p).sum(axis=1)[o] ** (2 / p) / 2 for sign in (1, -1))
        assert step[o, k] == pytest.approx((ahead - behind) / 2e-6, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("p", [*FINITE_ORDERS, math.inf])
@given(w=arrays((2, 3), -8, 8))
def test_lp_decay_scales_with_the_weights(p: float, w: Array) -> None:
    w = w.astype(np.float64)
    np.testing.assert_allclose(decayed(8 * w, p, 0.25), 8 * decayed(w, p, 0.25), rtol=1e-12)
    np.testing.assert_allclose(decayed(-w, p, 0.25), -decayed(w, p, 0.25), rtol=1e-12)


@pytest.mark.parametrize("p", [*FINITE_ORDERS[2:], math.inf])
@given(w=arrays((2, 3)))
def test_lp_decay_from_2_on_shrinks_every_weight(p: float, w: Array) -> None:
    """By a factor between 1 - a and 1, so that no sign changes."""
    after = decayed(w, p, 0.25)
    assert (np.abs(after) <= np.abs(w)).all()
    assert (np.abs(after) >= np.abs(w) * np.float32(0.7499)).all()
    assert (np.sign(after) * np.sign(w) >= 0).all()


def test_lp_decay_of_a_large_order_is_that_of_infinity() -> None:
    w = np.array([[1, -4, 2], [0.5, 0, 0.25]])
    np.testing.assert_allclose(decayed(w, 1000, 0.25), decayed(w, math.inf, 0.25), rtol=1e-12)


@pytest.mark.parametrize("p", [*FINITE_ORDERS, math.inf])
@pytest.mark.filterwarnings("error")
def test_lp_decay_of_zeros_and_of_extreme_weights(p: float) -> None:
    """A row of zeros stays; no power overflows, neither of a small nor of a large weight."""
    w = np.array([[0, 0, 0], [1e-40, -1, 1e-20], [3e37, 1e-30, 0], [1e-45, 0, -1e-45]], np.float32)
    after = decayed(w, p, 0.125)
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(after[0], [0, 0, 0])
    assert after[1, 1] == pytest.approx(-0.875)
    assert after[2, 0] == pytest.approx(3e37 * 0.875)


@pytest.mark.parametrize("p", [3, math.inf])
def test_rows_decay_apart_and_a_filter_is_a_row(p: float) -> None:
    w = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
    after = decayed(w, p, 0.25)
    for before, row in zip(w, after, strict=True):
        np.testing.assert_array_equal(row.reshape(1, 8), decayed(before.reshape(1, 8), p, 0.25))


@pytest.mark.parametrize("p", [0.5, 0, -2, -math.inf, math.nan])
def test_an_order_below_1_is_refused(p: float) -> None:
    w = np.ones((2, 2))
    with pytest.raises(ValueError, match="p must be at least 1"):
        lp_decay(w, p, 0.1)
    np.testing.assert_array_equal(w, 1)


# decay in a step


@every_optimizer
def test_decay_is_decoupled(backend: str, make: Callable[..., Optimizer]) -> None:
    """With no slope, a step multiplies by 1 - lr wd; with one, the decay comes first and leaves the moments alone."""
    w = parameter(8)
    walk(make({"w": w}, 0.5, weight_decay=0.25), [np.zeros(1)] * 2)
    np.testing.assert_allclose(w.numpy(), [8 * 0.875**2], rtol=1e-14)
    decaying, plain = make({"w": parameter(8)}, 0.5, weight_decay=0.25), make({"w": parameter(7)}, 0.5)
    walk(decaying, [np.ones(1)])
    walk(plain, [np.ones(1)])
    np.testing.assert_array_equal(decaying.parameters["w"].numpy(), plain.parameters["w"].numpy())
    for name, array in plain.state().items():
        np.testing.assert_array_equal(to_numpy(decaying.state()[name]), to_numpy(array))


def test_decay_follows_the_order_of_the_layer(backend: str) -> None:
    """Distance weights, filters among them, by their p; everything else as usual."""
    net = Sequential(LinfDistConv2d(1, 3, 2, bias=True, seed=0), Flatten(), LinfDistDense(12, 3, seed=1), Dense(3, 2))
    parameters = net.parameters()
    optimizer = SGD(parameters, 0.5, weight_decay=0.5, decay_order=net.decay_order)
    for p in (8, 3.5, math.inf):
        net.p = p
        expected = {}
        for name, tensor in parameters.items():
            tensor.grad = np.zeros_like(tensor.data)
            expected[name] = decayed(tensor.numpy(), p if name in ("0.weight", "2.weight") else 2, 0.25)
        optimizer.step()
        for name, tensor in parameters.items():
            np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-6, err_msg=f"{name} at p = {p}")
    assert parameters["0.weight"].shape == (3, 4)


def test_at_infinity_a_step_decays_one_weight_of_each_neuron() -> None:
    layer = LinfDistDense(6, 4, seed=0)
    before = layer.weight.numpy().copy()
    optimizer = SGD(layer.parameters(), 0.5, weight_decay=0.5, decay_order=layer.decay_order)
    layer.weight.grad = np.zeros_like(before)
    optimizer.step()
    changed = layer.weight.numpy() != before
    np.testing.assert_array_equal(changed.sum(axis=1), 1)
    np.testing.assert_array_equal(changed.argmax(axis=1), np.abs(before).argmax(axis=1))


# what it is for


@every_optimizer
def test_it_finds_a_minimum(backend: str, make: Callable[..., Optimizer]) -> None:
    target = np.array([[1.0, -2], [0.5, 3]])
    w = Tensor(np.zeros((2, 2)), requires_grad=True)
    optimizer = make({"w": w}, 0.1)
    for step in range(300):
        optimizer.lr = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        ((w - target) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.numpy(), target, atol=1e-3)
