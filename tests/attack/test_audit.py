"""The audit: what holds passes it, and it raises the alarm for whatever is made to be wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws, thorough
from support.nets import conv, exact_logits, exact_nets, fractions, gray_images, nets, with_linear_layers
from support.op_cases import Array

from linfengine import audit, layers, no_grad
from linfengine.attack import Attacked, pgd
from linfengine.audit import RADII, SECTIONS, Referee, Section, attack_radii, random_net
from linfengine.backends import reference
from linfengine.certify import METHODS, certify, check_samples, clopper_pearson, predict
from linfengine.data import to_pixels
from linfengine.errors import UserError
from linfengine.evaluate import Evaluation, SoundnessError, evaluate
from linfengine.exact import ExactNet, quantize
from linfengine.layers import Flatten, LinfDistDense, Module, Negate, Normalize, Sequential, linf_net

EPS = Fraction(8, 255)
SETTINGS: dict[str, Any] = {"restarts": 2, "targeted": True}


def small(seed: int = 0) -> Sequential:
    return linf_net((1, 2, 2), 3, width=5, depth=2, mean=(0.5,), std=0.25, seed=seed)


def net_for(method: str, seed: int = 0) -> Sequential:
    return quantize(small(seed)) if method == "exact" else small(seed)


def samples(n: int = 12, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 1, 2, 2)).astype(np.uint8), rng.integers(0, 3, n)


def predicted(net: Sequential, images: Array) -> Array:
    x, _ = check_samples(net, images, np.zeros(len(images), int))
    return predict(net, x).argmax(axis=1)


# Clean, attacked and certified.


@given(
    seed=st.integers(0, 999),
    eps=st.fractions(0, 1),
    method=st.sampled_from(METHODS),
    steps=st.integers(1, 6),
    chosen=st.fixed_dictionaries({"restarts": st.integers(1, 3), "targeted": st.booleans()}),
)
def test_an_evaluation_is_the_certificate_and_the_attack(
    seed: int, eps: Fraction, method: str, steps: int, chosen: dict[str, Any]
) -> None:
    images, labels = samples(8, seed)
    net = net_for(method, seed)
    result = evaluate(net, images, labels, eps, method=method, attack_steps=steps, seed=seed, **chosen)
    certificate = certify(net, images, labels, eps, method=method)
    found = pgd(net, images, labels, eps, steps=steps, seed=seed, **chosen)
    np.testing.assert_array_equal(result.clean, predicted(net, images) == labels)
    np.testing.assert_array_equal(result.attacked, found.withstood)
    np.testing.assert_array_equal(result.certified, certificate.certified)
    np.testing.assert_array_equal(result.certificate.margin, certificate.margin)
    of_pixels = evaluate(net, to_pixels(images), labels, eps, method=method, attack_steps=steps, seed=seed, **chosen)
    assert of_pixels.summary() == result.summary()


def far_or_near(eps: str, **settings: Any) -> tuple[bool, bool]:
    """Of a net with one pixel, |x| against |x - 1|, at x = 0.375 and eps: whether it withstood, and is certified."""
    net = linf_net((1, 1, 1), 2, width=1, depth=1, mean=(0.0,), std=1.0)
    net.load_state({"2.weight": np.array([[0], [1]], np.float32), "2.bias": np.zeros(2, np.float32)})
    result = evaluate(net, np.full((1, 1, 1, 1), 0.375, np.float32), np.array([0]), eps, attack_steps=20, **settings)
    assert result.attacked is not None
    return bool(result.attacked[0]), bool(result.certified[0])


@pytest.mark.parametrize("method", ["interval", "margin"])
def test_what_is_not_certified_any_more_is_broken_where_the_net_is_simple(method: str) -> None:
    """At distance 1/8 the answer changes."""
    assert far_or_near("0.12", method=method) == (True, True)
    assert far_or_near("0.13", method=method) == (False, False)


def test_evaluate_wants_no_negative_number_of_steps() -> None:
    images, labels = samples()
    with pytest.raises(ValueError, match="steps must be at least 1, got -1"):
        evaluate(small(), images, labels, EPS, attack_steps=-1)


# The alarm.


def generous(*arguments: Any, **settings: Any) -> Any:
    """Certificates for all that is right."""
    certificate = certify(*arguments, **settings)
    certificate.certified[...] = certificate.correct
    return certificate


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_certificate_raises_the_alarm(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, (images, _) = net_for(method), samples(30)
    labels = predicted(net, images)
    broken = int(np.flatnonzero(~pgd(net, images, labels, "0.3", **SETTINGS).withstood)[0])
    monkeypatch.setattr("linfengine.evaluate.certify", generous)
    with pytest.raises(SoundnessError, match=f"sample {broken} is certified at eps = 3/10 and yet an attack broke it"):
        evaluate(net, images, labels, "3/10", method=method, attack_steps=20, **SETTINGS)
    evaluate(net, images, labels, "3/10", method=method)  # without an attack nobody is the wiser


def test_an_attack_that_mends_a_mistake_raises_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = samples(30)
    mended = Attacked(images, np.ones(30), np.ones(30, bool))
    monkeypatch.setattr("linfengine.evaluate.pgd", lambda *arguments, **settings: mended)
    wrong = int(np.flatnonzero(predicted(small(), images) != labels)[0])
    with pytest.raises(SoundnessError, match=f"sample {wrong} is misclassified and yet counts as withstanding"):
        evaluate(small(), images, labels, EPS, attack_steps=1)


# The summary.


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_summary_is_the_counts_and_their_bounds(method: str, steps: int) -> None:
    images, labels = samples(40)
    result = evaluate(net_for(method), images, labels, "8/255", method=method, attack_steps=steps)
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
    images, labels = samples()
    with no_grad():
        assert evaluate(small(), images, labels, EPS).attacked is None


# The referee, against another one.


@given(net=nets() | exact_nets(), images=gray_images())
@draws(60)
def test_the_referee_is_exact(net: Sequential, images: Array) -> None:
    """Logits of the real-valued net, to the last of the digits, which a division by std may have without end."""
    referee = Referee(net)
    assert referee.lipschitz == (1 if isinstance(net, ExactNet) else 1 / Fraction(float(net.layers[0].std)))  # type: ignore[attr-defined]
    x, _ = check_samples(net, images, np.zeros(len(images), int))
    for point in x:
        assert referee.logits(point) == list(exact_logits(net, fractions(point)))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (with_linear_layers(), "no exact rule for a Dense layer"),
        (
            Sequential(Normalize((0.5,), 0.25), Normalize((0.5,), 0.25), Flatten(), LinfDistDense(4, 3), Negate()),
            "only a net with one Normalize, at its beginning",
        ),
    ],
)
def test_a_net_without_a_referee(net: Sequential, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Referee(net).logits(samples(1)[0][0])


# Radii read off a margin.


def test_a_random_net_has_its_image_right() -> None:
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(5):
        net, image, label = random_net(rng)
        assert (image.shape, image.dtype) == ((1, 1, 2, 4), np.float32)
        assert certify(net, image, label, 0).correct.all()
        seen.append(net.state()["2.weight"].tobytes())
    assert len(set(seen)) == 5


def test_naive_radii_are_beaten_and_the_proved_are_not() -> None:
    rng = np.random.default_rng(0)
    beaten = [attack_radii(*random_net(rng), rng) for _ in range(200)]
    assert all(list(each) == list(RADII) for each in beaten)
    naive, strict, proved = (sum(each[claim] for each in beaten) for claim in RADII)
    assert naive > strict > proved == 0


@pytest.mark.parametrize("bits", [0, 8])
def test_a_margin_of_integers_is_beaten_only_at_a_tie(bits: int) -> None:
    """No rounding: half the margin, strictly, is what is proved."""
    rng, beaten = np.random.default_rng(0), []
    for seed in range(100):
        net, (image, _) = quantize(small(seed), bits), samples(1, seed)
        beaten.append(attack_radii(net, image, predicted(net, image), rng))
    naive, strict, proved = (sum(each[claim] for each in beaten) for claim in RADII)
    assert naive > strict == proved == 0


# The sections.


def drawn(net: Sequential, seed: int) -> Sequential:
    """With normal weights, by seeds with which an attack of 1/5 breaks some samples and not all."""
    rng = np.random.default_rng(seed)
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
    return net


KINDS: dict[str, Callable[[], Sequential]] = {
    "dense": small,
    "conv": lambda: drawn(conv(), 7),
    "with a head": lambda: drawn(with_linear_layers(), 4),
    "exact": lambda: quantize(small()),
    "exact conv": lambda: quantize(drawn(conv(), 7), 4),
    "bytes": lambda: quantize(small(), 0),
}


@pytest.mark.parametrize(
    "kind", ["dense", thorough("conv"), "with a head", thorough("exact"), "exact conv", thorough("bytes")]
)
def test_nothing_breaks(kind: str) -> None:
    net, (images, labels) = KINDS[kind](), samples(60)
    told: list[str] = []
    sections = audit.audit(net, images, labels, "1/20", progress=told.append)
    assert told == [section.name for section in sections] == list(SECTIONS)
    for section in sections:
        assert section.sound, section.text
        assert section.text
        json.dumps(section.figures)
    by_name = {section.name: section.figures for section in sections}
    kinds = by_name["Lipschitz search"]["by kind"]
    assert max(each["ratio"] for each in kinds.values()) <= 1
    if kind not in ("with a head", "conv", "exact conv"):
        assert max(each["ratio"] for each in kinds.values()) > 0.99  # the constant is the best there is
    certificate = certify(net, images, labels, "1/20")
    assert by_name["attack on what is certified"].get("certified", 0) == certificate.certified.sum()
    assert len(by_name["agreement"]["combinations"]) >= 2
    assert by_name["agreement"]["differing"] == []
    if kind == "with a head":
        assert by_name["gradients"] == by_name["exact evaluation"] == {}
    else:
        assert by_name["gradients"]["without a kink"] > 10
        assert len(by_name["exact evaluation"]["samples"]) == 8
    if "exact" in kind or kind == "bytes":
        assert by_name["gradients"]["largest error"] == by_name["exact evaluation"]["proved"] == 0


def test_the_samples_evaluated_exactly_are_those_with_the_smallest_margins() -> None:
    images, labels = samples(60)
    section = audit.audit(small(), images, labels, EPS)[list(SECTIONS).index("exact evaluation")]
    margin = certify(small(), images, labels, EPS).margin
    chosen = margin[section.figures["samples"]]
    assert (chosen > 0).all()
    np.testing.assert_array_equal(chosen, np.sort(margin[margin > 0])[:8])


@pytest.mark.thorough
def test_the_seed_decides_and_effort_multiplies() -> None:
    images, labels = samples(60)
    once, again, other, more = (
        audit.audit(small(), images, labels, EPS, seed=seed, effort=effort)
        for seed, effort in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    assert [vars(section) for section in once] == [vars(section) for section in again]
    assert once[0].figures != other[0].figures
    counts = [
        (
            sum(kind["pairs"] for kind in sections[0].figures["by kind"].values()),
            sections[1].figures["restarts"],
            sections[1].figures["rounding"],
            sections[3].figures["segments"],
            len(sections[4].figures["samples"]),
            sections[5].figures["random 8-16-3 nets"]["tried"],
        )
        for sections in (once, more)
    ]
    assert all(1.5 * a < b <= 2 * a for a, b in zip(*counts, strict=True))


def test_where_nothing_is_right_nothing_is_attacked() -> None:
    images, _ = samples(20)
    labels = (predicted(small(), images) + 1) % 3
    sections = {section.name: section for section in audit.audit(small(), images, labels, EPS)}
    assert all(section.sound for section in sections.values())
    assert "no sample is certified" in sections["attack on what is certified"].text
    assert sections["exact evaluation"].figures["samples"] == []
    assert sections["floating-point attack"].figures["samples of this net"]["tried"] == 0


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (lambda: with_p(8), {}, "at p = 8"),
        (small, {"eps": "2"}, "radius in pixel units"),
        (small, {"inputs": np.zeros((12, 1, 2, 2))}, "got float64"),
        (small, {"labels": np.zeros(3, int)}, "shapes"),
    ],
)
def test_what_cannot_be_audited(make: Callable[[], Module], change: dict[str, Any], message: str) -> None:
    images, labels = samples()
    asked: dict[str, Any] = {"inputs": images, "labels": labels, "eps": EPS} | change
    with pytest.raises(UserError, match=message):
        audit.audit(make(), **asked)


def with_p(p: float) -> Module:
    net = small()
    net.p = p
    return net


# Every section finds what it is for.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the attack on random nets, which takes longer than all other sections."""
    monkeypatch.delitem(SECTIONS, "floating-point attack")


def broken(kind: str, eps: str = "1/20") -> dict[str, Section]:
    """The sections that an audit finds broken."""
    net, (images, _) = KINDS[kind](), samples(60)
    labels = predicted(net, images)
    return {section.name: section for section in audit.audit(net, images, labels, eps) if not section.sound}


every_exactness = pytest.mark.parametrize("kind", ["dense", "exact"])


@pytest.mark.usefixtures("quick")
@every_exactness
def test_a_lipschitz_constant_that_is_too_small_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = layers.Sequential.lipschitz
    for net_class in (layers.Sequential, ExactNet):
        monkeypatch.setattr(net_class, "lipschitz", lambda net: 0.99 * true(net))
    found = broken(kind)
    assert "Lipschitz search" in found
    kinds = found["Lipschitz search"].figures["by kind"]
    assert 1 < max(each["ratio"] for each in kinds.values()) <= 1 / 0.99 + 1e-9


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_that_an_attack_breaks_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfengine.audit.run.certify", generous)
    found = broken(kind, "1/5")
    assert found.keys() == {"attack on what is certified"}
    net, (images, _) = KINDS[kind](), samples(60)
    first = found["attack on what is certified"].figures["broken"][0]
    assert f"the first sample {first}" in found["attack on what is certified"].text
    certificate = certify(net, images, predicted(net, images), "1/5")
    assert not certificate.certified[first]


@pytest.mark.usefixtures("quick")
@every_exactness
def test_a_backend_with_another_last_place_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = reference.linf_dist

    def careless(*arguments: Any, **settings: Any) -> Any:
        y = true(*arguments, **settings)
        y[-1, -1] = np.nextafter(y[-1, -1], np.inf, dtype=y.dtype)
        return y

    monkeypatch.setattr(reference, "linf_dist", careless)
    found = broken(kind)
    assert "agreement" in found
    assert "reference" in found["agreement"].text or "cpu" in found["agreement"].text


@pytest.mark.usefixtures("quick")
def test_bounds_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = reference.linf_dist_bounds

    def loose(*arguments: Any, **settings: Any) -> Any:
        lower, upper = true(*arguments, **settings)
        return lower, np.nextafter(upper, np.inf, dtype=upper.dtype)

    monkeypatch.setattr(reference, "linf_dist_bounds", loose)
    assert broken("dense").keys() == {"agreement"}


@pytest.mark.usefixtures("quick")
@every_exactness
def test_a_wrong_gradient_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = audit.subject.gradient_of
    monkeypatch.setattr("linfengine.audit.engine.gradient_of", lambda *arguments: np.roll(true(*arguments), 1, axis=-1))
    assert broken(kind).keys() == {"gradients"}


@pytest.mark.usefixtures("quick")
@every_exactness
def test_logits_that_are_off_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a little more than is proved, in a certificate."""
    net = KINDS[kind]()
    more = 2.0**-8 if kind == "exact" else 3 * net.rounding(2.0)[0]

    def off(*arguments: Any, **settings: Any) -> Any:
        certificate = certify(*arguments, **settings)
        return replace(certificate, logits=certificate.logits + np.float32(more))

    monkeypatch.setattr("linfengine.audit.run.certify", off)
    found = broken(kind)
    assert found.keys() == {"exact evaluation"}
    assert found["exact evaluation"].figures["refuted"] == []


@pytest.mark.usefixtures("quick")
@every_exactness
def test_a_threshold_that_is_too_low_is_refuted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfengine.audit.run.certify", lambda *a, **s: replace(certify(*a, **s), threshold=0.0))
    found = broken(kind, "1/5")
    assert found.keys() == {"exact evaluation"}
    assert found["exact evaluation"].figures["refuted"]


def test_a_radius_without_its_slack_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(model: Module, *arguments: Any, **settings: Any) -> Any:
        certificate = certify(model, *arguments, **settings)
        return replace(certificate, radius=certificate.margin / (2 * model.lipschitz()))

    monkeypatch.setattr("linfengine.audit.attacks.certify", naive)
    found = broken("dense")
    assert found.keys() == {"floating-point attack"}
    assert found["floating-point attack"].figures["random 8-16-3 nets"]["proved"] > 0


def test_an_exact_radius_one_step_too_large_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: Any, **settings: Any) -> Any:
        certificate = certify(*arguments, **settings)
        return certificate if certificate.steps is None else replace(certificate, steps=certificate.steps + 1)

    monkeypatch.setattr("linfengine.audit.attacks.certify", greedy)
    found = broken("exact")
    assert found.keys() == {"floating-point attack"}
    assert found["floating-point attack"].figures["samples of this net"]["proved"] > 0
