"""What a net is to its callers: its mode belongs to a call, its parts are all seen, its claims are its own class's."""

import copy
import logging
import math
import re
import threading
from abc import ABC
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.nets import conv, deep, five_convs
from support.op_cases import Array

from linfengine.attack import pgd
from linfengine.audit import audit
from linfengine.certify import certify, predict
from linfengine.checkpoint import load_model, save_model
from linfengine.data import to_pixels
from linfengine.domain import Domain
from linfengine.errors import UserError
from linfengine.exact import ExactNet, quantize
from linfengine.interval import Interval
from linfengine.layers import (
    CenterCrop,
    Dense,
    Flatten,
    Input,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
    evaluation,
    linf_net,
)
from linfengine.losses import cross_entropy
from linfengine.ops.base import Result
from linfengine.optim import SGD
from linfengine.rounding import gamma
from linfengine.tensor import Tensor

RNG = np.random.default_rng(0)
PIXELS = RNG.random((48, 1, 2, 2), np.float32)
LABELS = RNG.integers(3, size=48)
GRAY = RNG.integers(256, size=(5, 1, 2, 2), dtype=np.uint8)


def net_of(*layers: Module) -> Sequential:
    return Sequential(Normalize((0.5,), 0.25), Flatten(), *layers)


# ---- The mode and the order of a call ----------------------------------------------------------------------------


def test_an_evaluation_block_changes_no_net() -> None:
    net = deep()
    net.p = 8
    with evaluation():
        assert (net.p, net.training) == (8, False)
        inside = net(PIXELS).numpy()
        with evaluation(32):
            assert not net.training
            smooth = net(PIXELS).numpy()
    assert (net.p, net.training) == (8, True)
    hard = copy.deepcopy(net).eval()
    np.testing.assert_array_equal(inside, hard(PIXELS).numpy())
    assert (smooth != inside).any()


def test_an_evaluation_at_a_finite_order_is_the_net_that_training_has() -> None:
    net = deep(mean_shift=False)
    net.p = 32
    expected = net(PIXELS).numpy()
    net.p = math.inf
    with evaluation(32):
        np.testing.assert_array_equal(net(PIXELS).numpy(), expected)
    assert (net.eval()(PIXELS).numpy() != expected).any()


def test_an_evaluation_block_ends_with_an_error() -> None:
    net = deep()
    with pytest.raises(ZeroDivisionError), evaluation():
        raise ZeroDivisionError
    assert net.training


def test_an_evaluation_block_is_for_its_thread_alone() -> None:
    net, inside, outside = deep(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def look() -> None:
        inside.wait(10)
        seen.append(net.training)
        outside.set()

    thread = threading.Thread(target=look)
    thread.start()
    with evaluation():
        inside.set()
        assert outside.wait(10)
    thread.join()
    assert seen == [True]


def test_eight_threads_certify_attack_and_predict_one_net() -> None:
    net = deep()
    net.train()
    jobs: list[Callable[[], tuple[Array, ...]]] = [
        lambda: (certify(net, PIXELS, LABELS, "1/20", method="margin", batch_size=5).margin,),
        lambda: (certify(net, PIXELS, LABELS, "1/20", batch_size=7).radius,),
        lambda: (pgd(net, PIXELS, LABELS, "1/20", steps=4, restarts=2, smooth=True, batch_size=9).margin,),
        lambda: (predict(net, PIXELS, 11),),
    ]
    alone = [job() for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(lambda i: jobs[i % 4](), range(64)))
    for i, found in enumerate(beside):
        for a, b in zip(alone[i % 4], found, strict=True):
            np.testing.assert_array_equal(a, b)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters().values())


def trained(steps: int = 30) -> Sequential:
    net = linf_net((1, 2, 2), 3, width=6, depth=3, mean=(0.5,), std=0.25, seed=2)
    net.p = 8
    optimizer = SGD(net.parameters(), 0.01)
    for _ in range(steps):
        cross_entropy(net(Tensor(PIXELS)), LABELS).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


def test_training_beside_an_attack_loses_nothing() -> None:
    expected, other, stop = trained(), deep(), threading.Event()

    def attack() -> None:
        while not stop.is_set():
            pgd(other, PIXELS, LABELS, "1/20", steps=2, restarts=2, smooth=True)

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        found = trained()
    finally:
        stop.set()
        thread.join()
    for name, array in expected.state().items():
        np.testing.assert_array_equal(array, found.state()[name])


def test_a_certificate_is_about_one_net_whatever_happens_to_it_meanwhile() -> None:
    """Another thread trains the net, or swaps its weights and takes them back: no certificate mixes two nets up."""
    one, other, stop = deep(), deep(), threading.Event()
    for array in other.state().values():
        array[...] = RNG.standard_normal(array.shape)
    own = {name: array.copy() for name, array in one.state().items()}
    expected = {net.digest(): certify(net, PIXELS, LABELS, "1/20").margin for net in (one, other)}

    def swap() -> None:
        while not stop.is_set():
            one.load_state(other.state())
            one.load_state(own)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found = [certify(one, PIXELS, LABELS, "1/20", batch_size=7) for _ in range(40)]
    finally:
        stop.set()
        thread.join()
    for proof in found:
        if proof.digest in expected:  # else a mixture was copied, which is a net of its own
            np.testing.assert_array_equal(proof.margin, expected[proof.digest])


def test_a_net_that_cannot_be_copied_is_refused() -> None:
    net = deep()
    net.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="cannot be copied"):
        certify(net, PIXELS, LABELS, "1/20")


def test_strict_floating_point_changes_nothing() -> None:
    """A debugger's np.seterr(all="raise"): certificates, attacks, audits and the radius of a box are what they were."""
    net, tiny = deep(), Interval(*np.array([[0, -1e-45, -3e38], [1e-45, 1e-40, 3e38]], np.float32))

    def answers() -> list[Array]:
        found = pgd(net, PIXELS, LABELS, "1/20", steps=3, restarts=2, smooth=True, targeted=True, rounding=2)
        sections = audit(net, GRAY, LABELS[:5], "1/20")
        assert all(section.sound for section in sections)
        return [found.point, found.margin, certify(net, PIXELS, LABELS, "1/20").radius, tiny.radius, tiny.centre]

    with np.errstate(all="ignore"):
        expected = answers()
    with np.errstate(all="raise"):
        for a, b in zip(expected, answers(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_labels_of_any_integer_type_are_classes() -> None:
    """Targets of 200 classes wrap in uint8, and those of 100 overflow in int8."""
    net = linf_net((1, 2, 2), 200, width=8, depth=2, mean=(0.5,), std=0.25, identity=False)
    labels = np.array([199, 120, 7], np.uint8)
    expected = pgd(net, PIXELS[:3], labels.astype(np.int64), "1/20", steps=1, targeted=True)
    found = pgd(net, PIXELS[:3], labels, "1/20", steps=1, targeted=True)
    np.testing.assert_array_equal(found.margin, expected.margin)
    proof = certify(net, PIXELS[:3], np.array([100, 120, 7], np.int8), "1/20")
    np.testing.assert_array_equal(proof.margin, certify(net, PIXELS[:3], np.array([100, 120, 7]), "1/20").margin)
    with pytest.raises(UserError, match="expected labels that are numbers of classes"):
        certify(net, PIXELS[:1], np.array([2**64 - 1], np.uint64), "1/20")


# ---- The parts of a net ------------------------------------------------------------------------------------------


def test_modules_and_tensors_are_seen_at_any_depth() -> None:
    class Deep(Module):
        def __init__(self) -> None:
            self.shift = {"a": MeanShift(2), "b": [[MeanShift(3)], (Dense(2, 2),)]}
            self.weights = [Tensor(np.zeros(1, np.float32)), {"w": Tensor(np.ones(1, np.float32))}]

    net = Deep()
    names = {"shift.b.1.0.weight", "shift.b.1.0.bias", "weights.0", "weights.1.w"}
    assert set(net.parameters()) == names
    assert set(net.state()) == names | {"shift.a.running_mean", "shift.b.0.0.running_mean"}
    net.eval()
    assert not any(module.training for _, module in net.modules())
    assert len(list(net.modules())) == 4
    assert set(Sequential(net).state()) == {f"0.{name}" for name in net.state()}


def test_a_mean_shift_in_a_dict_is_evaluated_like_any_other() -> None:
    class Shifted(Module):
        def __init__(self) -> None:
            self.shift = {"a": MeanShift(4)}

        def __call__(self, x: Input) -> Result:
            return self.shift["a"](x)

        def lipschitz(self) -> float:
            return 1.0

        def rounding(self, magnitude: float) -> tuple[float, float]:
            return self.shift["a"].rounding(magnitude)

    net = net_of(Shifted(), LinfDistDense(4, 3, seed=0), Negate())
    whole = certify(net, PIXELS, LABELS, "1/20").margin
    single = [certify(net, PIXELS[i : i + 1], LABELS[i : i + 1], "1/20").margin[0] for i in range(len(PIXELS))]
    np.testing.assert_array_equal(whole, single)


def in_closure(shift: Module) -> Callable[[], Module]:
    return lambda: shift


class Bag(dict[str, int]):
    """A container that may have attributes."""


def attributed(holder: Any, shift: Any) -> Any:
    holder.shift = shift
    return holder


def in_globals(shift: Any) -> object:
    names: dict[str, Any] = {"shift": shift}
    exec("def compute(x): return shift(x)", names)
    return names["compute"]


def in_array(shift: Any) -> Array:
    array = np.empty(1, object)
    array[0] = shift
    return array


@pytest.mark.parametrize(
    "hide",
    [
        lambda shift: [{shift}] if not isinstance(shift, np.ndarray) else SimpleNamespace(inner=shift),
        lambda shift: SimpleNamespace(inner=shift),
        in_closure,
        lambda shift: partial(print, shift),
        lambda shift: shift.__repr__,
        in_array,
        lambda shift: [SimpleNamespace(inner=[shift])],
        lambda shift: attributed(lambda: None, shift),
        lambda shift: attributed(Bag(), shift),
        in_globals,
    ],
)
@pytest.mark.parametrize(
    "what", [lambda: MeanShift(2), lambda: Tensor(np.zeros(2, np.float32)), lambda: np.zeros(2, np.float32)]
)
def test_what_is_hidden_is_refused(hide: Callable[[Any], object], what: Callable[[], Any]) -> None:
    class Hiding(Module):
        def __init__(self, held: object) -> None:
            self.held = held

    net = net_of(Hiding(hide(what())))
    for use in (net.eval, net.state, net.parameters, lambda: certify(net, PIXELS, LABELS, "1/20")):
        with pytest.raises(TypeError, match=r"Hiding: the attribute held\S* hides a Module, a Tensor or an array"):
            use()


def test_a_part_belongs_to_one_object_and_has_one_name() -> None:
    class Shared(Module):
        part = Dense(2, 2)

    class Twice(Module):
        def __init__(self) -> None:
            self.parts = {1: Dense(2, 2), "1": Dense(3, 3)}

    class Keyed(Module):
        def __init__(self) -> None:
            self.parts = {Dense(2, 2): 1}

    for net, sentence in (
        (Shared(), "Shared: part belongs to the class"),
        (Twice(), "Twice: two parts have the name parts.1"),
        (Keyed(), "Keyed: the attribute parts hides a Module"),
    ):
        with pytest.raises(TypeError, match=sentence):
            net.state()


@pytest.mark.parametrize(
    "harmless",
    [
        logging.getLogger("x"),
        Path("a"),
        np.random.default_rng(0),
        re.compile("a"),
        Fraction(1, 2),
        {"a": [1, "b"]},
        print,
    ],
)
def test_what_hides_nothing_is_no_error(harmless: object) -> None:
    net = deep()
    net.note = harmless  # type: ignore[attr-defined]
    assert len(list(net.modules())) == 1 + len(net.layers)


def test_a_module_that_holds_itself_is_refused() -> None:
    net = net_of(ReLU())
    net.layers[2].parent = net  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="holds itself"):
        net.eval()


def test_a_weight_with_two_names_is_one_parameter_and_saved_under_both(tmp_path: Path) -> None:
    first, second = LinfDistDense(4, 4, seed=0), LinfDistDense(4, 4, seed=1)
    second.weight = first.weight
    net = net_of(first, second, Negate())
    assert list(net.parameters()) == ["2.weight"]
    assert list(net.state()) == ["2.weight", "3.weight"]
    save_model(net, tmp_path / "net.safetensors")
    again, _ = load_model(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again(PIXELS).numpy(), net.eval()(PIXELS).numpy())


def test_a_layer_of_a_sequential_is_a_module() -> None:
    with pytest.raises(TypeError, match="Sequential: layer 1 must be a Module, got function"):
        Sequential(ReLU(), lambda x: x)  # type: ignore[arg-type]


# ---- What a class claims -----------------------------------------------------------------------------------------


class Steep(ReLU):
    def __call__(self, x: Input) -> Result:
        return super().__call__(x) * 4


class Thrice(LinfDistDense):
    def __call__(self, x: Input) -> Result:
        return super().__call__(x) * 3


class ThriceInside(LinfDistDense):
    def distance(self, x: Input) -> Result:
        return super().distance(x) * 3


class Residual(Sequential):
    def __call__(self, x: Input) -> Result:
        return super().__call__(x) + x * 5


class Folded(Dense):
    def __call__(self, x: Input) -> Result:
        return abs(super().__call__(x))


class Times:
    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * 3  # type: ignore[misc]


class Mixed(Times, ReLU):
    pass


class Below(Steep):
    """Nothing of its own."""


WRONG: list[Callable[[], Module]] = [
    Steep,
    Below,
    Mixed,
    lambda: Thrice(4, 4),
    lambda: ThriceInside(4, 4),
    lambda: Residual(ReLU()),
]


@pytest.mark.parametrize("make", [*WRONG, lambda: Folded(4, 4)])
def test_a_class_that_computes_something_else_inherits_no_claim(make: Callable[[], Module]) -> None:
    layer = make()
    sentence = f"the class {type(layer).__name__} does not define lipschitz"
    with pytest.raises(NotImplementedError, match=sentence):
        layer.lipschitz()
    with pytest.raises(NotImplementedError, match="does not define rounding"):
        layer.rounding(1.0)
    net = net_of(layer, LinfDistDense(4, 3, seed=0), Negate())
    for method in ("margin", "interval"):
        with pytest.raises(UserError, match=f"cannot be certified: {sentence}"):
            certify(net, PIXELS, LABELS, "1/20", method=method)
    with pytest.raises(UserError, match="may round"):
        quantize(net)


@pytest.mark.parametrize("make", WRONG)
def test_an_exact_net_has_no_layer_of_a_class_of_ones_own(make: Callable[[], Module]) -> None:
    net = ExactNet(
        Normalize((0.0,), 1.0), Flatten(), make(), LinfDistDense(4, 3, seed=0), Negate(), domain=Domain.gray_levels(8)
    )
    for parameter in net.parameters().values():
        parameter.data = np.rint(parameter.data)
    with pytest.raises(UserError, match="may round"):
        certify(net, np.zeros((1, 1, 2, 2), np.uint8), np.array([0]), "1/20", method="exact")


def test_a_subclass_of_an_exact_net_is_not_certified() -> None:
    class Doubled(ExactNet):
        def __call__(self, x: Input) -> Result:
            return super().__call__(x) * 2

    exact = quantize(deep())
    net = Doubled(*exact.layers, domain=Domain.gray_levels(8))
    with pytest.raises(UserError, match="a Doubled cannot be certified"):
        certify(net, np.zeros((1, 1, 2, 2), np.uint8), np.array([0]), "1/20", method="exact")


class Patched(ReLU):
    """Gets a __call__ when it is long made."""


Patched.__call__ = lambda self, x: ReLU()(x) * 4  # type: ignore[method-assign]


class Forgetful(ReLU):
    def __init_subclass__(cls) -> None:
        """Calls no super()."""


class Late(Forgetful):
    def __call__(self, x: Input) -> Result:
        return super().__call__(x) * 4


class Sly(LinfDistDense):
    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return (lambda x: value(x) * 4) if name == "distance" else value


@pytest.mark.parametrize("make", [Patched, Late, lambda: Sly(4, 4)])
def test_a_claim_that_was_kept_by_a_trick_is_refused(make: Callable[[], Module]) -> None:
    net = net_of(make(), LinfDistDense(4, 3, seed=0), Negate())
    with pytest.raises(UserError, match="cannot be certified: "):
        certify(net, PIXELS, LABELS, "1/20")


def test_a_class_that_computes_the_same_keeps_its_claims() -> None:
    class Watched(Sequential, ABC):
        def train(self, training: bool = True) -> Module:
            return super().train(training)

        def __repr__(self) -> str:
            return "watched"

    class Named(Watched):
        """Nothing of its own."""

    net = Named(*linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0.5,), std=0.25).layers)
    assert net.lipschitz() == 4
    assert certify(net, PIXELS, LABELS, "1/1000").correct.shape == (48,)


def test_methods_that_look_for_parts_cannot_be_replaced() -> None:
    net = deep()
    net.modules = lambda *_: iter([])  # type: ignore[method-assign]
    net.lipschitz = lambda: 1e-6  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the modules of its Sequential  was replaced"):
        certify(net, PIXELS, LABELS, "1/20")


def test_logits_that_overflow_prove_nothing() -> None:
    class Infinite(Claiming):
        def __call__(self, x: Input) -> Result:
            z = np.zeros((x.shape[0], 3), np.float32)
            z[:, 0] = np.inf
            return Tensor(z)

        lipschitz, rounding = Claiming.lipschitz, Claiming.rounding

    proof = certify(Infinite(1, 0, 1), PIXELS, np.zeros(48, int), "1/20", method="margin")
    assert not proof.certified.any()
    assert not proof.radius.any()


def test_a_class_may_state_its_own_claims() -> None:
    """Four times as steep, and certified a quarter as far."""

    class Honest(Steep):
        def lipschitz(self) -> float:
            return 4.0

        def rounding(self, magnitude: float) -> tuple[float, float]:
            error, size = ReLU().rounding(magnitude)
            return 4 * error, 4 * size

    last = LinfDistDense(4, 3, seed=0)
    plain, steep = (net_of(MeanShift(4), layer, last, Negate()) for layer in (ReLU(), Honest()))
    assert steep.lipschitz() == 4 * plain.lipschitz()
    proof = certify(steep, PIXELS, LABELS, "1/1000")
    attacked = pgd(steep, PIXELS, LABELS, "1/1000")
    assert proof.certified.any()
    assert not (proof.certified & ~attacked.withstood).any()


def test_the_bounds_of_a_net_with_its_own_call_are_those_of_that_call() -> None:
    """Right constants, and a last layer that would bound the differences of another function."""

    class Switched(Sequential):
        def __call__(self, x: Input) -> Result:
            return -super().__call__(x)

        def lipschitz(self) -> float:
            return math.prod(layer.lipschitz() for layer in self.layers)

        def rounding(self, magnitude: float) -> tuple[float, float]:
            return Sequential(*self.layers).rounding(magnitude)

    net = Switched(Normalize((0.5,), 0.25), Flatten(), Dense(4, 3, seed=0), Tanh(), Dense(3, 3, seed=1))
    box = Interval(PIXELS, PIXELS)
    with evaluation():
        logits = net(PIXELS).numpy().astype(np.float64)
        bounds = net.lowest_margins(box, LABELS)
    true = logits[np.arange(48), LABELS]
    logits[np.arange(48), LABELS] = -np.inf
    assert (bounds <= true - logits.max(axis=1)).all()


def test_a_method_replaced_on_an_object_is_refused() -> None:
    net = deep()
    net.layers[2].distance = lambda x: x  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="the distance of its LinfDistDense 2 was replaced"):
        certify(net, PIXELS, LABELS, "1/20")


class Claiming(Module):
    """A net, or the identity, with whatever claims."""

    def __init__(self, lipschitz: Any, error: Any, size: Any, net: Module | None = None) -> None:
        self.claims = lipschitz, error, size
        self.net = net

    def __call__(self, x: Input) -> Result:
        return x if self.net is None else self.net(x)

    def lipschitz(self) -> float:
        return self.claims[0]

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return self.claims[1], self.claims[2]


@pytest.mark.parametrize(
    "claims", [(-1, 0, 1), (math.nan, 0, 1), (math.inf, 0, 1), (1, -1.3e7, 1), (1, math.nan, 1), (1, 0, math.nan)]
)
@pytest.mark.parametrize("method", ["margin", "interval"])
def test_claims_that_are_none_certify_nothing(claims: tuple[float, float, float], method: str) -> None:
    net = net_of(Claiming(*claims), LinfDistDense(4, 3, seed=0), Negate())
    try:
        assert not certify(net, PIXELS, LABELS, 0, method=method).certified.any()
    except UserError as refused:
        assert "cannot be certified: it states" in str(refused)  # noqa: PT017 (either is right)


@pytest.mark.parametrize(
    "claims",
    [(-1, 0, 1), (math.nan, 0, 1), (math.inf, 0, 1), (4, -1e-3, 1), (4, math.nan, 1), (4, 0, -1), (4, 0, math.nan)]
    + [(4, math.inf, 1), (4, 0, 2.0**128)],
)
@pytest.mark.parametrize("method", ["margin", "interval"])
def test_claims_of_a_whole_net_that_are_none_certify_nothing(claims: tuple[float, float, float], method: str) -> None:
    """With claims that can be true the same samples are certified."""
    net = deep()
    labels = predict(net, PIXELS).argmax(axis=1)
    assert certify(Claiming(4, 0, 1, net), PIXELS, labels, 0, method=method).certified.all()
    try:
        proof = certify(Claiming(*claims, net), PIXELS, labels, 0, method=method)
    except UserError as refused:
        assert "cannot be certified: it states" in str(refused)  # noqa: PT017 (either is right)
        return
    assert not proof.certified.any()
    assert not proof.radius.any()


@pytest.mark.parametrize("lipschitz", [0, 1, 3, 1 / 0.3, 255 / 7])
def test_a_radius_is_less_than_the_margin_allows(lipschitz: float) -> None:
    """Strictly, since a tie fails; of a constant net it is 1 where the margin is positive."""
    net = deep()
    labels = predict(net, PIXELS).argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    proof = certify(Claiming(lipschitz, 0, 1, net), PIXELS, labels, 0, method="margin")
    for radius, margin in zip(proof.radius.tolist(), proof.margin.tolist(), strict=True):
        assert radius == 0 or 2 * Fraction(lipschitz) * Fraction(radius) < Fraction(margin)
        assert (radius > 0) == (margin > 0)
        assert lipschitz or radius == (margin > 0)


def test_a_constant_net_with_a_tie_proves_nothing() -> None:
    net = net_of(LinfDistDense(4, 3, seed=0), Negate())
    net.layers[2].weight.data[:] = 0  # type: ignore[attr-defined]
    proof = certify(Claiming(0, 0, 1, net), PIXELS, np.zeros(48, int), 0)
    assert not proof.margin.any()
    assert not proof.certified.any()
    assert not proof.radius.any()


def test_gamma_is_infinite_where_there_is_no_bound() -> None:
    assert gamma(1) == 2**-24 / (1 - 2**-24)
    assert gamma(2**24 - 1) == 2**24 - 1
    assert gamma(2**24) == gamma(2**24 + 1) == math.inf


def test_a_linear_layer_of_more_inputs_than_float32_can_count_certifies_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = Dense(4, 3, seed=0)
    monkeypatch.setattr("linfengine.rounding.UNIT_ROUNDOFF", 1 / 7)  # as if 4 inputs were 2^24 − 3
    net = net_of(layer)
    assert layer.rounding(1.0)[0] == math.inf
    for method in ("margin", "interval"):
        proof = certify(net, PIXELS, LABELS, 0, method=method)
        assert not proof.certified.any()
        assert not proof.radius.any()


# ---- What a certificate relies on can be changed -----------------------------------------------------------------


@pytest.mark.parametrize("std", [np.float32(-0.25), 0, math.nan, math.inf, (0.2, -0.2), ((0.2,),)])
def test_std_stays_one_positive_number(std: Any) -> None:
    net = deep()
    with pytest.raises(ValueError, match="one positive number for std"):
        net.layers[0].std = std  # type: ignore[attr-defined]
    object.__setattr__(net.layers[0], "_std", np.float32(-0.25))
    with pytest.raises(UserError, match="cannot be certified: it states a Lipschitz constant of -"):
        certify(net, PIXELS, LABELS, "1/20")


def test_a_mean_changed_in_place_is_certified_and_saved(tmp_path: Path) -> None:
    net = linf_net((1, 2, 2), 3, width=6, depth=2, mean=(0.1307,), std=0.3081, seed=0)
    with np.printoptions(legacy="1.13", precision=2):
        assert net.layers[0].config() == {"layer": "Normalize", "mean": [0.1307], "std": 0.3081}
    net.layers[0].mean[...] = 0.4  # type: ignore[attr-defined]
    net.layers[0].std = 0.5  # type: ignore[attr-defined]
    save_model(net, tmp_path / "net.safetensors")
    again, _ = load_model(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again(PIXELS).numpy(), net.eval()(PIXELS).numpy())
    assert net.digest() == again.digest()


@pytest.mark.parametrize("make", [deep, conv, five_convs, lambda: quantize(deep()), lambda: quantize(conv(), 0)])
def test_a_digest_is_that_of_what_is_computed(make: Callable[[], Module], tmp_path: Path) -> None:
    net = make()
    before = net.digest()
    net.p = 8
    net.eval()
    assert net.digest() == before
    net.p = math.inf
    save_model(net, tmp_path / "net.safetensors")
    assert load_model(tmp_path / "net.safetensors")[0].digest() == before
    assert copy.deepcopy(net).digest() == before
    for name in net.state():
        other = copy.deepcopy(net)
        array = other.state()[name]
        changed = array.copy()
        changed.reshape(-1)[-1] += 1
        if name in (tensors := other._tensors()):
            tensors[name].data = changed
        else:
            path, _, leaf = name.rpartition(".")
            setattr(dict(other.modules())[path], leaf, changed)
        assert other.digest() != before, name


def zeros(inputs: int, outputs: int, groups: int = 1) -> LinfDistDense:
    layer = LinfDistDense(inputs, outputs, groups=groups)
    layer.weight.data[:] = 0
    return layer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Normalize((0.5,), 0.25), Normalize((0.5,), 0.5)),
        (Normalize((0.5,), 0.25), Normalize((0.25,), 0.25)),
        (CenterCrop(1), CenterCrop(2)),
        (ReLU(), Negate()),
        (Sequential(ReLU(), Flatten()), Sequential(Flatten(), ReLU())),
        (zeros(2, 6), zeros(6, 2)),
        (zeros(3, 6), zeros(6, 6, groups=2)),
        (LinfDistConv2d(1, 2, 3, seed=0), LinfDistConv2d(1, 2, 3, seed=0, padding=1)),
        (LinfDistConv2d(1, 2, 3, seed=0), LinfDistConv2d(1, 2, 3, seed=0, stride=2)),
        (
            ExactNet(Flatten(), zeros(2, 6), domain=Domain.gray_levels(1)),
            ExactNet(Flatten(), zeros(2, 6), domain=Domain.gray_levels(2)),
        ),
    ],
)
def test_another_setting_is_another_digest(one: Module, other: Module) -> None:
    assert one.digest() == copy.deepcopy(one).digest() != other.digest()


# ---- Which inputs a net takes ------------------------------------------------------------------------------------


def test_uint8_images_are_gray_levels_wherever_a_net_is_called() -> None:
    net = deep().eval()
    pixels = GRAY / np.float32(255)
    np.testing.assert_array_equal(net(GRAY).numpy(), net(pixels).numpy())
    np.testing.assert_array_equal(predict(net, GRAY), predict(net, pixels))
    assert isinstance(net, Sequential)
    by_hand = Sequential(*net.layers)
    np.testing.assert_array_equal(by_hand(GRAY).numpy(), net(pixels).numpy())


def test_a_net_inside_a_net_takes_the_same_images() -> None:
    class Own(Normalize):
        """Nothing of its own."""

    net = deep()
    net.eval()
    expected = net(GRAY).numpy()
    normalize = net.layers[0]
    assert isinstance(normalize, Normalize)
    own = Own((0.5,), float(normalize.std))
    for same in (Sequential(net), Sequential(Sequential(*net.layers)), Sequential(own, *net.layers[1:])):
        np.testing.assert_array_equal(predict(same, GRAY), expected)
    with pytest.raises(TypeError, match="the net takes uint8 images"):
        net(GRAY.tolist())
    np.testing.assert_array_equal(net((GRAY / np.float32(255)).tolist()).numpy(), expected)
    with pytest.raises(TypeError, match="takes floating-point numbers, got uint8"):
        Sequential(*net.layers[1:])(GRAY)


def test_gray_levels_as_floats_are_not_predicted() -> None:
    for images in (GRAY.astype(np.float32), -(GRAY / np.float32(255)), np.full((1, 1, 2, 2), np.nan, np.float32)):
        with pytest.raises(UserError, match=r"the net takes uint8 images, or float32 pixels in \[0, 1\], got numbers"):
            predict(deep(), images)


def test_gray_levels_are_the_nearest_numbers_to_255ths() -> None:
    levels = np.arange(256, dtype=np.uint8)
    expected = np.array([np.float32(level / 255) for level in range(256)])
    np.testing.assert_array_equal(Domain.pixels().numbers(levels), expected)
    np.testing.assert_array_equal(to_pixels(levels), expected)
    assert (levels * np.float32(1 / 255) != expected).any()
    np.testing.assert_array_equal(Domain.gray_levels(0).numbers(levels), levels)


@pytest.mark.parametrize("bits", [0, 8])
def test_an_exact_net_refuses_what_is_not_on_its_grid(bits: int) -> None:
    net = quantize(deep(), bits)
    grid = "float32 whole gray levels in" if bits == 0 else r"float32 gray levels in .* that are multiples of 2\^-8"
    with pytest.raises(TypeError, match=grid):
        net(GRAY.astype(np.int64))
    logits = net(GRAY).numpy()
    np.testing.assert_array_equal(net(GRAY.astype(np.float32)).numpy(), logits)
    for wrong, words in (
        (GRAY / np.float32(255), r"got numbers between these: are these pixels in \[0, 1\]\?"),
        (GRAY + np.float32(0.3), "got numbers between these"),
        (-GRAY.astype(np.float32), "got numbers from -"),
        (GRAY.astype(np.float32) + 256, "got numbers from 2"),
        (np.full((1, 1, 2, 2), np.nan, np.float32), "got numbers from nan"),
    ):
        for each in (wrong, Tensor(wrong)):
            with pytest.raises(ValueError, match=words):
                net(each)


@pytest.mark.parametrize("make", [lambda net: net, quantize, lambda net: quantize(net, 0)])
def test_a_net_refuses_images_of_another_layout(make: Callable[[Module], Module]) -> None:
    net = make(linf_net((3, 8, 8), 4, width=8, depth=2, mean=(0.5,) * 3, std=0.25))
    for images in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match=r"the net takes images \(n, 3, 8, 8\), got shape \(2, 8, 8, 3\)"):
            net(images)


@pytest.mark.parametrize("dtype", [np.int64, bool, np.uint16])
def test_other_integers_are_no_images(dtype: type) -> None:
    for net in (deep(), quantize(deep()), quantize(deep(), 0)):
        with pytest.raises(TypeError, match=f"the net takes uint8 images, or float32 .*, got {np.dtype(dtype)}"):
            net(GRAY.astype(dtype))


def test_a_batch_of_none() -> None:
    for net in (deep(), quantize(deep()), quantize(deep(), 0)):
        with pytest.raises(ValueError, match="nothing to compute"):
            net(GRAY[:0])
        with pytest.raises(ValueError, match="at least one sample, got none"):
            predict(net, GRAY[:0])
        for size in (0, -1, True, 1.5):
            with pytest.raises(ValueError, match="batch_size: expected a whole number from 1 on"):
                predict(net, GRAY, size)  # type: ignore[arg-type]


# ---- How a net shows itself --------------------------------------------------------------------------------------


def test_nets_and_layers_have_a_readable_repr() -> None:
    assert repr(LinfDistDense(4, 3)) == "LinfDistDense(in_features=4, out_features=3, bias=False, groups=1)"
    assert repr(Normalize((0.1307,), 0.3081)) == "Normalize(mean=[0.1307], std=0.3081)"
    assert repr(Sequential(ReLU(), Sequential(Tanh()))) == (
        "Sequential(\n  0: ReLU()\n  1: Sequential(\n    0: Tanh()\n  )\n)"
    )
    assert repr(Claiming(1, 0, 1)) == "Claiming()"
