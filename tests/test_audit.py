"""Attacks: they stay in the ball, they leave the net as it was, and they never break what is certified."""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Array
from strategies import arrays

from linfengine import audit, no_grad
from linfengine.audit import Evaluation, SoundnessError, evaluate, frozen, pgd
from linfengine.certify import METHODS, box, certify, clopper_pearson, predict
from linfengine.errors import UserError
from linfengine.layers import LinfDistNet, Module
from linfengine.ops.base import Result

EPS = Fraction(8, 255)


class Watched(LinfDistNet):
    """A net on 2 x 2 pixels that remembers every point it was asked about."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__((1, 2, 2), 3, width=5, depth=2, mean=(0.5,), std=0.25, seed=seed)
        self.asked: list[Array] = []

    def __call__(self, x: Any) -> Result:
        if not hasattr(x, "lower"):
            self.asked.append(np.array(getattr(x, "data", x)) if not isinstance(x, np.ndarray) else x.copy())
        return super().__call__(x)


def samples(n: int = 12, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 1, 2, 2), np.float32), rng.integers(0, 3, n)


def far_or_near(eps: str, **settings: Any) -> tuple[bool, bool]:
    """Of a net with one pixel, |x| against |x - 1|, at x = 0.375 and eps: whether it withstood, and is certified."""
    net = LinfDistNet((1, 1, 1), 2, width=1, depth=1, mean=(0.0,), std=1.0)
    net.load_state({"2.weight": np.array([[0], [1]], np.float32), "2.bias": np.zeros(2, np.float32)})
    result = evaluate(net, np.full((1, 1, 1, 1), 0.375, np.float32), np.array([0]), eps, attack_steps=20, **settings)
    assert result.attacked is not None
    return bool(result.attacked[0]), bool(result.certified[0])


# What PGD does.


@given(
    seed=st.integers(0, 99),
    eps=st.fractions(0, 1) | st.sampled_from([Fraction(0), EPS, Fraction(1)]),
    pixels=arrays((2, 1, 2, 2), 0, 1),
    steps=st.integers(1, 5),
)
@settings(max_examples=50)
def test_every_point_is_a_valid_image_of_the_ball(seed: int, eps: Fraction, pixels: Array, steps: int) -> None:
    net = Watched(seed)
    pgd(net, pixels, np.array([0, 1]), eps, steps=steps, seed=seed)
    assert len(net.asked) == steps + 2  # the clean images, the start, and one a step
    np.testing.assert_array_equal(net.asked[0], pixels)
    ball = box(pixels, eps)
    for point in net.asked:
        assert point.dtype == np.float32
        assert ball.contains(point)
        assert ((0 <= point) & (point <= 1)).all()
        for a, b in zip(point.ravel().tolist(), pixels.ravel().tolist(), strict=True):
            assert abs(Fraction(a) - Fraction(b)) <= eps + Fraction(1, 2**22)


def test_a_step_is_a_quarter_of_eps_and_the_start_within_a_half() -> None:
    net, (pixels, labels) = Watched(), samples()
    pixels = np.clip(pixels, 0.3, 0.7)  # no clipping to valid images
    pgd(net, pixels, labels, "0.2", steps=8)
    start = np.abs(net.asked[1] - pixels)
    assert 0 < start.max() <= 0.1 + 1e-6
    for before, after in zip(net.asked[1:], net.asked[2:], strict=False):
        assert np.abs(after - before).max() <= 0.05 + 1e-6
        moved = np.abs(after - before) > 0
        inside = np.abs(after - pixels) < 0.2 - 1e-6
        np.testing.assert_allclose(np.abs(after - before)[moved & inside], 0.05, atol=1e-6)
    assert np.abs(net.asked[-1] - pixels).max() >= 0.1


def test_an_attack_succeeds_where_it_can() -> None:
    """|x| against |x - 1| at x = 3/8: at distance 1/8 the answer changes, and PGD knows the way."""
    assert far_or_near("0.12") == (True, True)
    assert far_or_near("0.13") == (False, False)
    assert far_or_near("0.12", method="margin") == (True, True)
    assert far_or_near("0.13", method="margin") == (False, False)


def test_following_the_gradient_helps() -> None:
    net, (pixels, _) = Watched(), samples(200)
    labels = predict(net, pixels).argmax(axis=1)
    broken = [int((~pgd(net, pixels, labels, "0.1", steps=steps)).sum()) for steps in (1, 20)]
    assert broken[1] > 1.5 * broken[0]


@given(seed=st.integers(0, 999), eps=st.fractions(0, 1), method=st.sampled_from(METHODS), steps=st.integers(1, 6))
def test_certified_withstood_and_right(seed: int, eps: Fraction, method: str, steps: int) -> None:
    """Sample by sample: certified implies withstood, and withstood implies right."""
    pixels, labels = samples(8, seed)
    net = Watched(seed)
    withstood = pgd(net, pixels, labels, eps, steps=steps)
    clean = predict(net, pixels).argmax(axis=1) == labels
    certificate = certify(net, pixels, labels, eps, method=method)
    assert withstood.dtype == bool
    assert (certificate.certified <= withstood).all()
    assert (withstood <= clean).all()
    result = evaluate(net, pixels, labels, eps, method=method, attack_steps=steps)
    np.testing.assert_array_equal(result.clean, clean)
    np.testing.assert_array_equal(result.attacked, withstood)
    np.testing.assert_array_equal(result.certified, certificate.certified)


@given(seed=st.integers(0, 999), steps=st.integers(1, 5), more=st.integers(0, 5))
@settings(max_examples=20)
def test_more_steps_never_mend(seed: int, steps: int, more: int) -> None:
    pixels, labels = samples(20, seed)
    few, many = (pgd(Watched(), pixels, labels, "0.2", steps=n, seed=seed) for n in (steps, steps + more))
    assert (many <= few).all()


def test_without_a_radius_only_mistakes_are_broken() -> None:
    net, (pixels, labels) = Watched(), samples(50)
    np.testing.assert_array_equal(pgd(net, pixels, labels, 0), predict(net, pixels).argmax(axis=1) == labels)


def test_the_seed_decides_where_it_starts() -> None:
    pixels, labels = samples()
    paths = []
    for seed in (0, 0, 1):
        net = Watched()
        pgd(net, pixels, labels, EPS, seed=seed)
        paths.append(np.array(net.asked))
    np.testing.assert_array_equal(paths[0], paths[1])
    assert (paths[0][1] != paths[2][1]).any()


def test_each_batch_starts_elsewhere_and_all_samples_are_judged() -> None:
    net, (pixels, labels) = Watched(), samples(2)
    repeated = np.repeat(pixels[:1], 5, axis=0)
    assert pgd(net, repeated, np.repeat(labels[:1], 5), EPS, steps=1, batch_size=2).shape == (5,)
    starts = np.concatenate(net.asked[1::3])
    assert len(np.unique(starts.reshape(5, -1), axis=0)) == 5


# What PGD leaves behind.


def test_the_net_is_left_as_it_was() -> None:
    net, (pixels, labels) = Watched(), samples()
    net.parameters()["2.weight"].requires_grad = False
    before = {name: array.copy() for name, array in net.state().items()}
    net.train()
    pgd(net, pixels, labels, EPS)
    assert not net.training
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])
    for name, parameter in net.parameters().items():
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "2.weight")


def test_a_gradient_that_was_there_stays() -> None:
    net, (pixels, labels) = Watched(), samples()
    net(pixels).sum().backward()
    before = {name: np.array(parameter.grad) for name, parameter in net.parameters().items()}
    pgd(net, pixels, labels, EPS)
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.grad, before[name])


def test_frozen_thaws_after_an_error() -> None:
    net = Watched()

    def fail() -> None:
        with frozen(net):
            assert not any(parameter.requires_grad for parameter in net.parameters().values())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(parameter.requires_grad for parameter in net.parameters().values())


# What is refused.


def at_finite_p() -> Module:
    net = Watched()
    net.p = 8
    return net


def not_finite() -> Module:
    net = Watched()
    net.state()["2.weight"][0, 0] = math.nan
    return net


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_are_counted_from_one(steps: int) -> None:
    pixels, labels = samples()
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        pgd(Watched(), pixels, labels, EPS, steps=steps)


def test_evaluate_wants_no_negative_number_of_steps() -> None:
    pixels, labels = samples()
    with pytest.raises(ValueError, match="steps must be at least 1, got -1"):
        evaluate(Watched(), pixels, labels, EPS, attack_steps=-1)


@pytest.mark.parametrize("judge", [pgd, evaluate])
@pytest.mark.parametrize(
    ("make", "change", "eps", "message"),
    [
        (at_finite_p, {}, EPS, "at p = 8"),
        (not_finite, {}, EPS, "2.weight holds values that are not finite"),
        (Watched, {}, "2", "radius in pixel units"),
        (Watched, {}, "nan", "expected a number"),
        (Watched, {"pixels": np.full((2, 1, 2, 2), 1.5, np.float32)}, EPS, "pixels must lie in"),
        (Watched, {"pixels": np.full((2, 1, 2, 2), np.nan, np.float32)}, EPS, "pixels must lie in"),
        (Watched, {"pixels": np.zeros((2, 1, 2, 2))}, EPS, "got float64"),
        (Watched, {"pixels": np.zeros((0, 1, 2, 2), np.float32), "labels": np.zeros(0, int)}, EPS, "no samples"),
        (Watched, {"labels": np.zeros(3, int)}, EPS, "shapes"),
        (Watched, {"labels": np.zeros(2)}, EPS, "integer labels"),
    ],
)
def test_what_cannot_be_attacked(
    judge: Callable[..., Any], make: Callable[[], Module], change: dict[str, Array], eps: Any, message: str
) -> None:
    given_samples = {"pixels": np.zeros((2, 1, 2, 2), np.float32), "labels": np.zeros(2, int)} | change
    with pytest.raises(UserError, match=message):
        judge(make(), given_samples["pixels"], given_samples["labels"], eps)


# The alarm.


def test_a_wrong_certificate_raises_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(*arguments: Any, **settings: Any) -> Any:
        certificate = certify(*arguments, **settings)
        certificate.certified[...] = True
        return certificate

    pixels, labels = samples(30)
    labels = predict(Watched(), pixels).argmax(axis=1)
    broken = int(np.flatnonzero(~pgd(Watched(), pixels, labels, "0.3"))[0])
    monkeypatch.setattr(audit, "certify", generous)
    with pytest.raises(SoundnessError, match=f"sample {broken} is certified at eps = 3/10 and yet an attack broke it"):
        evaluate(Watched(), pixels, labels, "3/10", attack_steps=20)
    evaluate(Watched(), pixels, labels, "3/10")  # without an attack nobody is the wiser


def test_an_attack_that_mends_a_mistake_raises_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = samples(30)
    monkeypatch.setattr(audit, "pgd", lambda *arguments, **settings: np.ones(30, bool))
    with pytest.raises(SoundnessError):
        evaluate(Watched(), pixels, labels, EPS, attack_steps=1)


# The summary.


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_summary_is_the_counts_and_their_bounds(method: str, steps: int) -> None:
    pixels, labels = samples(40)
    result = evaluate(Watched(), pixels, labels, "8/255", method=method, attack_steps=steps)
    assert isinstance(result, Evaluation)
    columns = {"clean": result.clean, "certified": result.certified}
    if steps:
        assert result.attacked is not None
        columns["attacked"] = result.attacked
    summary = json.loads(json.dumps(result.summary()))
    assert summary.keys() == {"n", "eps", "method", "bounds", "confidence", *columns}
    assert (summary["n"], summary["eps"], summary["method"], summary["confidence"]) == (40, "8/255", method, 0.95)
    assert summary["bounds"].keys() == columns.keys()
    for name, column in columns.items():
        assert summary[name] == sum(column) / 40
        assert summary["bounds"][name] == list(clopper_pearson(int(sum(column)), 40))
        assert summary["bounds"][name][0] <= summary[name] <= summary["bounds"][name][1]


def test_without_an_attack_there_is_no_verdict_of_one() -> None:
    pixels, labels = samples()
    with no_grad():
        assert evaluate(Watched(), pixels, labels, EPS).attacked is None
