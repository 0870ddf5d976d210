"""Losses against numbers computed by hand, in exact fractions, and by plain loops in float64."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from support.op_cases import Array
from support.strategies import arrays
from support.tolerances import CENTRAL_DIFFERENCES, FORWARD, GRADIENT

from linfengine import Tensor
from linfengine.backends import to_numpy
from linfengine.gradcheck import gradcheck
from linfengine.losses import cross_entropy, hinge, mixture, robust_cross_entropy

Loss = Callable[..., Tensor]


def slope(loss: Tensor, logits: Tensor) -> Array:
    """The gradient of the loss in the logits."""
    loss.backward()
    assert logits.grad is not None
    return logits.grad


# margins 1 and -1.5; at 2 eps = 1 the worst cases are (0, 0, -1) and (0.5, 2.5, 0)
LOGITS = np.array([[1, 0, -1], [0, 2, 0.5]])
LABELS = np.array([0, 2])

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "hinge": lambda z, y: hinge(z, y, 0.5),
    "mixture": lambda z, y: mixture(z, y, 0.5, 0.1),
    "mixture without clip": lambda z, y: mixture(z, y, 0.5, 0.1, clip=False),
    "robust_cross_entropy": lambda z, y: robust_cross_entropy(z, y, 0.5, 0.75),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def samples(classes: int = 3, n: int = 4) -> st.SearchStrategy[tuple[Array, Array]]:
    labels = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n).map(np.array)
    return st.tuples(arrays((n, classes), -8, 8), labels)


# by hand


def test_cross_entropy_by_hand() -> None:
    """Softmax (3/4, 1/4) and (1/2, 1/2): -mean log p_y = (log 4 + log 2)/2."""
    z = np.array([[math.log(3), 0], [5, 5]])
    assert cross_entropy(Tensor(z), np.array([1, 0])).item() == pytest.approx(1.5 * math.log(2), rel=1e-14)
    assert cross_entropy(Tensor(np.zeros((3, 7))), np.array([0, 6, 2])).item() == pytest.approx(math.log(7), rel=1e-14)


def test_cross_entropy_does_not_overflow() -> None:
    z = np.array([[1e30, 0], [0, 200]], np.float32)
    assert cross_entropy(Tensor(z), np.array([0, 0])).item() == 100


@pytest.mark.parametrize(("mix", "expected"), [(1, 1.25), (0, 0.5), (0.75, 1.0625)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hinge_by_hand(mix: float, expected: float, dtype: Any) -> None:
    """The largest worst cases are 0 and 2.5, their means over the classes 0 and 3/3."""
    value = hinge(Tensor(LOGITS.astype(dtype)), LABELS, 0.5, mix)
    assert value.item() == expected
    assert value.dtype == dtype
    assert value.shape == ()


def test_the_usual_hinge_is_three_quarters_the_worst_class() -> None:
    assert hinge(Tensor(LOGITS), LABELS, 0.5).item() == 1.0625


def test_hinge_of_radius_zero_is_the_perceptron_loss() -> None:
    """At eps = 0 only wrong answers count: max_j (z_j - z_y) is 0 and 1.5."""
    assert hinge(Tensor(LOGITS), LABELS, 0, 1).item() == 0.75


def test_the_label_itself_is_no_worst_case() -> None:
    """worst_y is 0 and not 2 eps: with a margin beyond 2 eps nothing is lost, however large eps."""
    z = Tensor(np.array([[25.0, 4, 3]]))
    assert hinge(z, np.array([0]), 10, 0).item() == 0
    assert mixture(z, np.array([0]), 10, 0).item() == 0


@pytest.mark.parametrize("scale", [0.0, Tensor(np.zeros(1))])
def test_mixture_by_hand(scale: Any) -> None:
    """The first sample is robust and the second wrong: (0 + 1)/2; a scale of 0 makes the classes equally likely."""
    value = mixture(Tensor(LOGITS), LABELS, 0.5, 2, scale)
    assert value.item() == pytest.approx(0.5 + 2 * math.log(3), rel=1e-14)


@pytest.mark.parametrize(("margin", "expected"), [(-7, 1), (0, 1), (0.25, 0.75), (0.75, 0.25), (1, 0), (9, 0)])
def test_mixture_falls_with_the_margin_from_1_to_0(margin: float, expected: float) -> None:
    """clip(1 - margin/(2 eps), 0, 1): 1 for a wrong answer, 0 once the margin is 2 eps."""
    z = Tensor(np.array([[-3, margin, 0.0]]))
    assert mixture(z, np.array([1]), 0.5, 0).item() == expected


def test_the_scale_multiplies_the_logits_of_the_cross_entropy_alone() -> None:
    z = Tensor(np.array([[math.log(3) / 4, 0]]))
    value = mixture(z, np.array([0]), 1, 3, 4)
    assert value.item() == pytest.approx(1 - math.log(3) / 8 + 3 * math.log(4 / 3), rel=1e-14)


@pytest.mark.parametrize(
    ("margin", "expected"), [(-7, 8), (0, 1), (0.25, 0.75), (0.75, 0.25), (1, 0), (9, 0), (-0.5, 1.5)]
)
def test_without_a_clip_a_wrong_answer_costs_the_more_the_farther_it_is(margin: float, expected: float) -> None:
    """max(1 - margin/(2 eps), 0)."""
    z = Tensor(np.array([[-9, margin, 0.0]]))
    assert mixture(z, np.array([1]), 0.5, 0, clip=False).item() == expected


def test_a_mixture_of_weight_zero_is_its_first_term_and_leaves_the_scale_alone() -> None:
    """The largest worst cases are 0 and 2.5, in units of 2 eps = 1."""
    logits, scale = Tensor(LOGITS, requires_grad=True), Tensor(np.array([math.nan]), requires_grad=True)
    assert mixture(logits, LABELS, 0.5, 0, scale).item() == 0.5
    loss = mixture(logits, LABELS, 0.5, 0, scale, clip=False)
    assert loss.item() == 1.25
    np.testing.assert_array_equal(slope(loss, logits), [[0, 0, 0], [0, 0.5, -0.5]])
    assert scale.grad is None


@pytest.mark.parametrize(
    ("kappa", "expected"), [(1, math.log(20) / 2), (0, math.log(16 / 3) / 2), (0.5, math.log(320 / 3) / 4)]
)
def test_robust_cross_entropy_by_hand(kappa: float, expected: float) -> None:
    """At 2 eps = log 3 the odds of the label, 3 and 1/3, fall to 1 and 1/9; (log 2 + log 10)/2, (log 4/3 + log 4)/2."""
    z = Tensor(np.array([[math.log(3), 0], [0, math.log(3)]]))
    value = robust_cross_entropy(z, np.array([0, 0]), math.log(3) / 2, kappa)
    assert value.item() == pytest.approx(expected, rel=1e-14)
    assert value.shape == ()


def test_robust_cross_entropy_is_usually_that_of_the_worst_case() -> None:
    expected = cross_entropy(Tensor(np.array([[0, 0, -1], [0.5, 2.5, 0]])), LABELS).item()
    assert robust_cross_entropy(Tensor(LOGITS), LABELS, 0.5).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kappa", [0, 0.5, 1])
def test_robust_cross_entropy_of_radius_zero_is_cross_entropy(kappa: float) -> None:
    value = robust_cross_entropy(Tensor(LOGITS), LABELS, 0, kappa)
    assert value.item() == pytest.approx(cross_entropy(Tensor(LOGITS), LABELS).item(), rel=1e-14)


# 0 at the labels, and elsewhere whatever a net says
WORST = np.array([[0, -math.log(3), -math.log(1.5)], [math.log(3), math.log(4), 0]])


def test_a_worst_case_that_is_given_is_taken_instead() -> None:
    """Their exponentials are (1, 1/3, 2/3) and (3, 4, 1), so that log 2 and log 8 are lost.

    The largest positive ones are 0 and log 4, and their sums 0 and log 12.
    """
    for eps in (0, 0.5):  # no matter which
        robust = robust_cross_entropy(Tensor(LOGITS), LABELS, eps, worst=Tensor(WORST)).item()
        assert robust == pytest.approx(2 * math.log(2), rel=1e-14)
        mixed = robust_cross_entropy(Tensor(LOGITS), LABELS, eps, 0.25, worst=Tensor(WORST)).item()
        ordinary = cross_entropy(Tensor(LOGITS), LABELS).item()
        assert mixed == pytest.approx(math.log(2) / 2 + 0.75 * ordinary, rel=1e-14)
        value = hinge(Tensor(LOGITS), LABELS, eps, 0.75, worst=Tensor(WORST)).item()
        assert value == pytest.approx(0.75 * math.log(2) + 0.25 * math.log(12) / 6, rel=1e-14)


# by other arithmetic


def worst_cases(z: Array, y: Array, eps: Fraction) -> list[list[Fraction]]:
    exact = [[Fraction(float(value)) for value in row] for row in z]
    return [
        [Fraction(0) if j == label else row[j] - row[label] + 2 * eps for j in range(len(row))]
        for row, label in zip(exact, y, strict=True)
    ]


@given(sample=samples(), eps=st.floats(0, 4, width=16), mix=st.sampled_from([0, 0.25, 0.75, 1]))
def test_hinge_is_its_formula_in_fractions(sample: tuple[Array, Array], eps: float, mix: float) -> None:
    z, y = sample
    total = Fraction(0)
    for worst in worst_cases(z, y, Fraction(eps)):
        positive = [max(value, Fraction(0)) for value in worst]
        total += Fraction(mix) * max(positive) + (1 - Fraction(mix)) * sum(positive) / len(positive)
    expected = float(total / len(z))
    assert hinge(Tensor(z.astype(np.float64)), y, eps, mix).item() == pytest.approx(expected, rel=1e-13, abs=1e-13)
    assert hinge(Tensor(z), y, eps, mix).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(
    sample=samples(),
    scale=st.sampled_from([0.5, 1, 3]),
    weight=st.sampled_from([0, 2e-4, 0.5]),
    clip=st.booleans(),
)
def test_mixture_is_its_formula_in_fractions(
    sample: tuple[Array, Array], scale: float, weight: float, clip: bool
) -> None:
    z, y = sample
    eps = Fraction(3, 4)
    most = Fraction(1) if clip else Fraction(10**9)
    clipped = [min(max(*worst, Fraction(0)) / (2 * eps), most) for worst in worst_cases(z, y, eps)]
    entropy = -scipy.special.log_softmax(scale * z.astype(np.float64), axis=1)[np.arange(len(y)), y].mean()
    expected = float(sum(clipped) / len(y)) + weight * entropy
    for dtype in (np.float32, np.float64):
        value = mixture(Tensor(z.astype(dtype)), y, float(eps), weight, scale, clip=clip)
        np.testing.assert_allclose(value.data, expected, **FORWARD[dtype])


@given(sample=samples(), eps=st.floats(0, 4, width=16), kappa=st.sampled_from([0, 0.25, 0.5, 1]))
def test_robust_cross_entropy_is_its_formula(sample: tuple[Array, Array], eps: float, kappa: float) -> None:
    z, y = sample
    exact = np.array([[float(value) for value in row] for row in worst_cases(z, y, Fraction(eps))])
    terms = [-scipy.special.log_softmax(each, axis=1)[np.arange(4), y].mean() for each in (exact, z.astype(np.float64))]
    expected = kappa * terms[0] + (1 - kappa) * terms[1]
    for dtype in (np.float32, np.float64):
        value = robust_cross_entropy(Tensor(z.astype(dtype)), y, eps, kappa)
        np.testing.assert_allclose(value.data, expected, **FORWARD[dtype])
        given_it = robust_cross_entropy(Tensor(z.astype(dtype)), y, eps, kappa, worst=Tensor(exact.astype(dtype)))
        np.testing.assert_allclose(given_it.data, expected, **FORWARD[dtype])


@given(sample=samples(5))
def test_cross_entropy_is_the_logarithm_of_the_probability(sample: tuple[Array, Array]) -> None:
    z, y = sample
    lost = [
        math.log(math.fsum(math.exp(float(v) - float(row[label])) for v in row))
        for row, label in zip(z, y, strict=True)
    ]
    for dtype in (np.float32, np.float64):
        value = cross_entropy(Tensor(z.astype(dtype)), y)
        np.testing.assert_allclose(value.data, math.fsum(lost) / len(y), **FORWARD[dtype])


# laws


@every_loss
@given(sample=samples(), data=st.data())
def test_a_loss_sees_only_differences_of_logits(loss: Loss, sample: tuple[Array, Array], data: st.DataObject) -> None:
    z, y = sample
    shift = data.draw(arrays((4, 1), -8, 8)).astype(np.float64)
    assert loss(Tensor(z + shift), y).item() == pytest.approx(loss(Tensor(z.astype(np.float64)), y).item(), abs=1e-12)


@every_loss
@given(sample=samples(), data=st.data())
def test_a_loss_does_not_care_about_order(loss: Loss, sample: tuple[Array, Array], data: st.DataObject) -> None:
    """Of the samples, nor of the classes, labels going along."""
    z, y = sample[0].astype(np.float64), sample[1]
    rows = np.array(data.draw(st.permutations(range(4))))
    columns = np.array(data.draw(st.permutations(range(3))))
    renamed = np.argsort(columns)[y]
    expected = pytest.approx(loss(Tensor(z), y).item(), rel=1e-12, abs=1e-12)
    assert loss(Tensor(z[rows]), y[rows]).item() == expected
    assert loss(Tensor(z[:, columns]), renamed).item() == expected


@every_loss
@given(sample=samples())
def test_a_loss_is_the_mean_over_its_samples(loss: Loss, sample: tuple[Array, Array]) -> None:
    z, y = sample[0].astype(np.float64), sample[1]
    single = [loss(Tensor(z[i : i + 1]), y[i : i + 1]).item() for i in range(len(y))]
    assert loss(Tensor(z), y).item() == pytest.approx(math.fsum(single) / len(y), rel=1e-12, abs=1e-12)


@every_loss
@given(sample=samples())
def test_a_larger_true_logit_never_costs(loss: Loss, sample: tuple[Array, Array]) -> None:
    z, y = sample[0].astype(np.float64), sample[1]
    better = z.copy()
    better[np.arange(4), y] += 1
    assert 0 <= loss(Tensor(better), y).item() <= loss(Tensor(z), y).item() + 1e-12


@given(sample=samples(), eps=st.sampled_from([0.25, 1.0, 2.0]))
def test_the_losses_vanish_exactly_for_robust_samples(sample: tuple[Array, Array], eps: float) -> None:
    """hinge = 0, and the first term of the mixture too, if and only if every margin is at least 2 eps."""
    z, y = sample[0].astype(np.float64), sample[1]
    others = np.where(np.arange(3) == y[:, None], -np.inf, z)
    robust = bool((z[np.arange(4), y] - others.max(axis=1) >= 2 * eps).all())
    for mix in (0, 0.75, 1):
        assert (hinge(Tensor(z), y, eps, mix).item() == 0) == robust
    assert (mixture(Tensor(z), y, eps, 0).item() == 0) == robust


@given(sample=samples(), kappas=st.tuples(st.floats(0, 1), st.floats(0, 1)), eps=st.sampled_from([0.0, 0.25, 2.0]))
def test_robust_cross_entropy_grows_with_its_share_of_the_worst_case(
    sample: tuple[Array, Array], kappas: tuple[float, float], eps: float
) -> None:
    z, y = sample[0].astype(np.float64), sample[1]
    low, high = (robust_cross_entropy(Tensor(z), y, eps, kappa).item() for kappa in sorted(kappas))
    assert low <= high + 1e-12
    assert high <= cross_entropy(Tensor(z), y).item() + 2 * eps + 1e-12


@given(sample=samples(), eps=st.sampled_from([0.25, 1.0, 2.0]))
def test_a_clip_only_takes_away(sample: tuple[Array, Array], eps: float) -> None:
    """And takes away nothing where every answer is right."""
    z, y = sample[0].astype(np.float64), sample[1]
    clipped, whole = (mixture(Tensor(z), y, eps, 0.25, clip=clip).item() for clip in (True, False))
    assert clipped <= whole
    if (z[np.arange(4), y][:, None] >= z).all():
        assert clipped == pytest.approx(whole, rel=1e-12, abs=1e-12)


@given(sample=samples(), eps=st.sampled_from([0.25, 1.0, 2.0]))
def test_mixture_lies_between_two_counts(sample: tuple[Array, Array], eps: float) -> None:
    """Its first term is at least the fraction of wrong answers and at most that of samples not robust."""
    z, y = sample[0].astype(np.float64), sample[1]
    margins = z[np.arange(4), y] - np.where(np.arange(3) == y[:, None], -np.inf, z).max(axis=1)
    value = mixture(Tensor(z), y, eps, 0).item()
    assert (margins <= 0).mean() <= value + 1e-15
    assert value <= (margins < 2 * eps).mean() + 1e-15


@pytest.mark.parametrize("eps", [Fraction(1, 2), np.float64(0.5), np.float32(0.5)])
def test_a_radius_may_be_any_number(eps: Any) -> None:
    """And leaves the logits their dtype."""
    z = Tensor(LOGITS.astype(np.float32))
    for value in (hinge(z, LABELS, eps), mixture(z, LABELS, eps, 0.1), robust_cross_entropy(z, LABELS, eps)):
        assert value.dtype == np.float32
    assert hinge(z, LABELS, eps).item() == 1.0625


@every_loss
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_labels_may_be_any_integers(loss: Loss, dtype: Any) -> None:
    assert loss(Tensor(LOGITS), LABELS.astype(dtype)).item() == loss(Tensor(LOGITS), LABELS).item()
    assert loss(Tensor(LOGITS), LABELS.tolist()).item() == loss(Tensor(LOGITS), LABELS).item()


# gradients


def inputs() -> tuple[Array, Array]:
    """Logits with no tie near, of samples that are wrong, right and robust."""
    return np.array([[0.3, -0.2, 1.1], [2.0, 0.1, -0.4], [-0.5, 0.45, 0.2], [0.0, 3.0, -2.0]]), np.array([0, 0, 1, 1])


@every_loss
def test_gradients(loss: Loss) -> None:
    z, y = inputs()
    gradcheck(lambda z: loss(z, y), z, **CENTRAL_DIFFERENCES)


@pytest.mark.parametrize("mix", [0, 0.75, 1])
@pytest.mark.parametrize("eps", [0.0, 0.3, 2.0])
def test_gradients_of_hinge(mix: float, eps: float) -> None:
    z, y = inputs()
    gradcheck(lambda z: hinge(z, y, eps, mix), z, **CENTRAL_DIFFERENCES)


@pytest.mark.parametrize("clip", [True, False])
def test_gradients_of_mixture_reach_the_scale(clip: bool) -> None:
    z, y = inputs()
    gradcheck(lambda z, s: mixture(z, y, 0.3, 0.7, s, clip=clip), z, np.array([1.3]), **CENTRAL_DIFFERENCES)


@pytest.mark.parametrize("kappa", [0, 0.25, 1])
@pytest.mark.parametrize("eps", [0.0, 0.3, 2.0])
def test_gradients_of_robust_cross_entropy(kappa: float, eps: float) -> None:
    z, y = inputs()
    gradcheck(lambda z: robust_cross_entropy(z, y, eps, kappa), z, **CENTRAL_DIFFERENCES)


@pytest.mark.parametrize("loss", [hinge, robust_cross_entropy])
def test_gradients_flow_into_a_worst_case_that_is_given(loss: Loss) -> None:
    z, y = inputs()
    worst = np.array([[-0.1, 0.3, -0.2], [-0.1, -0.7, 0.6], [1.1, -0.1, 0.4], [-0.5, -0.1, -0.9]])  # none at a kink
    gradcheck(lambda z, worst: loss(z, y, 0.3, 0.7, worst=worst), z, worst, **CENTRAL_DIFFERENCES)


@given(sample=samples())
def test_the_gradient_of_cross_entropy_is_softmax_less_one_hot(sample: tuple[Array, Array]) -> None:
    z, y = sample
    logits = Tensor(z, requires_grad=True)
    expected = (scipy.special.softmax(z.astype(np.float64), axis=1) - np.eye(3)[y]) / 4
    np.testing.assert_allclose(slope(cross_entropy(logits, y), logits), expected, **GRADIENT[np.float32])


def test_the_gradient_of_hinge_by_hand() -> None:
    """mix 3/4: the worst class gets 3/4, every class that costs gets 1/4 · 1/3; the label pays for all of it; / 2."""
    logits = Tensor(LOGITS, requires_grad=True)
    expected = np.array([[0, 0, 0], [1 / 24, 3 / 8 + 1 / 24, -3 / 8 - 2 / 24]])
    np.testing.assert_allclose(slope(hinge(logits, LABELS, 0.5), logits), expected, rtol=1e-14)


def test_without_a_clip_wrong_answers_have_the_gradient_of_all_that_are_not_robust() -> None:
    logits = Tensor(np.array([[0.0, 5], [5, 0], [0.25, 0]]), requires_grad=True)  # wrong, robust, between
    loss = mixture(logits, np.array([0, 0, 0]), 0.5, 0, clip=False)
    np.testing.assert_allclose(slope(loss, logits), np.array([[-1, 1], [0, 0], [-1, 1]]) / 3, rtol=1e-14)


def test_samples_outside_the_clip_have_no_gradient_but_that_of_the_cross_entropy() -> None:
    logits = Tensor(np.array([[0.0, 5], [5, 0], [0.25, 0]]), requires_grad=True)  # wrong, robust, between
    loss = mixture(logits, np.array([0, 0, 0]), 0.5, 0)
    np.testing.assert_allclose(slope(loss, logits), np.array([[0, 0], [0, 0], [-1 / 3, 1 / 3]]), rtol=1e-14)


# what is refused


@every_loss
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "expected 0 to 2, got values from 0 to 3"),
        ([-1, 2], "expected 0 to 2, got values from -1 to 2"),
        ([0.0, 1.0], "expected integers, got float64"),
        ([True, False], "expected integers, got bool"),
        (["0", "1"], "expected integers"),
        ([0, 1, 2], r"shapes \(2, 3\) and \(3,\)"),
        ([[0], [1]], r"shapes \(2, 3\) and \(2, 1\)"),
        (0, r"shapes \(2, 3\) and \(\)"),
    ],
)
def test_labels_that_do_not_fit(loss: Loss, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"labels: .*{message}"):
        loss(Tensor(LOGITS), np.array(labels))


@every_loss
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64])
def test_labels_of_any_integer_type(loss: Loss, dtype: Any) -> None:
    """Also where there are more classes than the type can count."""
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((6, 300)), np.array([0, 1, 5, 100, 126, 127])
    answers = []
    for each in (labels.astype(dtype), labels):
        logits = Tensor(z, requires_grad=True)
        value = loss(logits, each)
        answers.append((value.item(), slope(value, logits).tobytes()))
    assert answers[0] == answers[1]


@every_loss
def test_logits_that_do_not_fit(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"logits \(n, classes\) and labels \(n,\), got shapes \(3,\) and \(3,\)"):
        loss(Tensor(np.zeros(3)), np.zeros(3, int))
    none: list[Any] = [np.zeros(0, int), np.zeros(0), []]
    for labels in none:
        with pytest.raises(ValueError, match="labels: expected at least one sample, got none"):
            loss(Tensor(np.zeros((0, 3))), labels)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "loss",
    [hinge, robust_cross_entropy, lambda z, y, eps: mixture(z, y, eps, 0.1)],
    ids=["hinge", "robust_cross_entropy", "mixture"],
)
def test_a_radius_that_is_none(loss: Loss, eps: float) -> None:
    with pytest.raises(ValueError, match="eps must be"):
        loss(Tensor(LOGITS), LABELS, eps)


def test_mixture_divides_by_the_radius() -> None:
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        mixture(Tensor(LOGITS), LABELS, 0, 0.1)


@pytest.mark.parametrize("mix", [-0.1, 1.1, math.nan])
def test_a_share_outside_0_and_1(mix: float) -> None:
    with pytest.raises(ValueError, match=r"mix must lie in \[0, 1\], got"):
        hinge(Tensor(LOGITS), LABELS, 0.5, mix)


@pytest.mark.parametrize("kappa", [-0.1, 1.1, math.nan])
def test_a_share_of_the_worst_case_outside_0_and_1(kappa: float) -> None:
    with pytest.raises(ValueError, match=r"kappa must lie in \[0, 1\], got"):
        robust_cross_entropy(Tensor(LOGITS), LABELS, 0.5, kappa)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_of_the_cross_entropy_that_is_none(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be finite and not negative, got"):
        mixture(Tensor(LOGITS), LABELS, 0.5, weight)


@pytest.mark.parametrize("loss", [hinge, robust_cross_entropy])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,), (2, 4)])
def test_a_worst_case_of_another_shape(loss: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"worst: expected the shape of the logits, \(2, 3\), got"):
        loss(Tensor(LOGITS), LABELS, 0.5, worst=Tensor(np.zeros(shape)))


# floating-point errors


@every_loss
def test_tiny_probabilities_are_no_error(backend: str, loss: Loss) -> None:
    """The bits are those of silence."""
    z = np.array([[100, 0, -100], [0, 1e-20, 400], [-1e38, 1e38, 0]], np.float32)
    answers = []
    for error in ("ignore", "raise"):
        logits = Tensor(z, requires_grad=True)
        with np.errstate(all=error):
            value = loss(logits, np.array([0, 2, 1]))
            value.backward()
        assert logits.grad is not None
        answers.append((value.numpy().tobytes(), to_numpy(logits.grad).tobytes()))
    assert answers[0] == answers[1]


def test_a_difference_of_logits_that_overflows_is_no_error(backend: str) -> None:
    """Its exponential is 0."""
    with np.errstate(all="raise"):
        assert cross_entropy(Tensor(np.array([[3e38, -3e38]], np.float32)), np.array([0])).item() == 0
