"""What a certificate says of domains at their edges: subclasses, wide grids, several channels, edited files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.op_cases import Array

from linfengine.attack import pgd
from linfengine.audit import attack_radii, audit
from linfengine.certify import Certificate, certify, predict, write_certificate
from linfengine.checkpoint import save_model
from linfengine.domain import Domain, domain_from
from linfengine.errors import UserError
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    linf_net,
)
from linfengine.verify import Disagreement, verify


def checked(folder: Path, net: Module, x: Array, labels: Array, eps: Any, method: str = "interval") -> dict[str, Any]:
    save_model(net, folder / "model")
    certificate = certify(net, x, labels, eps, method=method)
    write_certificate(folder / "certificate", certificate, folder / "model", x, labels)
    return verify(folder / "certificate", folder / "model", x, labels)


def loaded(layer: LinfDistDense, weights: Any, bias: Any = None) -> LinfDistDense:
    layer.weight.data[...] = weights
    if layer.bias is not None and bias is not None:
        layer.bias.data[...] = bias
    return layer


class Ten(Normalize):
    """Ten times as steep, as it states."""

    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * 10

    def lipschitz(self) -> float:
        return 10 * super().lipschitz()

    def rounding(self, magnitude: float) -> tuple[float, float]:
        error, size = super().rounding(magnitude)
        return 20 * error, 20 * size

    def config(self) -> dict[str, Any]:
        return super().config()


@pytest.mark.parametrize("scale", [1.0, (1.0, 1.0)])
def test_a_subclass_of_normalize_has_its_own_constant(scale: Any) -> None:
    """One number for all coordinates or one for each: the claims are those of the class."""
    net = Sequential(
        Ten((0.0,), 1.0), loaded(LinfDistDense(2, 2), [[-1, 0], [1, 0]]), Negate(), domain=Domain((2,), -1, 1, scale)
    ).eval()
    x = np.array([[-0.05, 0]], np.float32)
    proof = certify(net, x, predict(net, x).argmax(axis=1), "0.2", method="margin")
    assert proof.threshold >= 4
    assert not proof.certified.any()


def test_a_ball_on_a_wide_grid_reaches_the_bounds() -> None:
    """Its radius, 2^24 + 1 steps, is no float32 number."""
    wide = 2.0**23
    domain = Domain((2,), (wide + 1, -wide), (wide + 1, wide + 1), 1.0, 0)
    x = np.array([[wide + 1, -wide]], np.float32)
    ball = domain.ball(x, domain.radius(2**24 + 1))
    np.testing.assert_array_equal(ball.upper, [[wide + 1, wide + 1]])
    net = ExactNet(Normalize((0.0,), 1.0), ReLU(), loaded(LinfDistDense(2, 2, groups=2), 0), Negate(), domain=domain)
    proof = certify(net, x, np.array([1]), 2**24 + 1, method="exact")
    assert not proof.certified.any()  # at the upper end the classes tie


def test_an_exact_net_that_rounds_is_refused_by_the_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactNet, "check", lambda net: None)
    layers = Normalize((-12e6, 0.0), 1.0), loaded(LinfDistDense(2, 2, groups=2), 0), Negate()
    net, x = ExactNet(*layers, domain=Domain((2,), 0, 12e6, 1.0, 0)), np.array([[1, 2]], np.float32)
    with pytest.raises(Disagreement, match="the model's values may reach"):
        checked(tmp_path, net, x, predict(net, x).argmax(axis=1), 0, "exact")


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 4, 4)])
def test_an_exact_net_on_colours_is_verified(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """The mean stays where a padding follows."""
    channels = shape[0]
    conv = LinfDistConv2d(channels, 2, 3, padding=1, seed=0)
    normalize = Normalize((0.5,) * channels, 0.25)
    net = Sequential(normalize, conv, Flatten(), LinfDistDense(32, 3, seed=1), Negate(), domain=Domain.pixels(shape))
    exact = quantize(net.eval())
    images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    checked(tmp_path, exact, images, predict(exact, images).argmax(axis=1), "1/50", "exact")


def test_inputs_beyond_the_domain_are_refused_even_when_not_derived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = linf_net(Domain((2,), 0, 1), 2, width=4, depth=2, seed=0).eval()
    x = np.random.default_rng(0).random((51, 2)).astype(np.float32)
    x[50] = -50
    monkeypatch.setattr(Domain, "check_range", lambda domain, numbers: None)
    save_model(net, tmp_path / "model")
    labels = predict(net, x).argmax(axis=1)
    write_certificate(tmp_path / "c", certify(net, x, labels, "0.01"), tmp_path / "model", x, labels)
    with pytest.raises(Disagreement, match="lie beyond the model's domain"):
        verify(tmp_path / "c", tmp_path / "model", x, labels, samples=1)


@pytest.mark.parametrize(
    ("domain", "x", "eps"),
    [(Domain((2,)), [[0.5, 0.5]], "0.1"), (Domain((2,), 0.0, 1.0, 5.0), [[0.5, 0.5]], "0.1")],
)
def test_a_radius_is_no_larger_than_the_domain(domain: Domain, x: Any, eps: Any, tmp_path: Path) -> None:
    """Though the width, 1/10 or 1/5, be rounded up as a float64 number."""
    net = Sequential(Normalize((0.0,), 1.0), loaded(LinfDistDense(2, 2), [[0, 0], [9, 9]]), Negate(), domain=domain)
    points = np.array(x, np.float32)
    assert checked(tmp_path, net.eval(), points, np.array([0]), eps)["certified"]["count"] == 1


def test_a_normalize_that_stands_later_is_bounded_channel_by_channel(tmp_path: Path) -> None:
    layers = ReLU(), Normalize((1000.0, 0.0), (1000.0, 1.0)), LinfDistDense(2, 2, seed=0), Negate()
    net, x = Sequential(*layers, domain=Domain((2,), -1, 1)).eval(), np.zeros((1, 2), np.float32)
    checked(tmp_path, net, x, predict(net, x).argmax(axis=1), "0.01")


def test_cropped_images_are_verified(tmp_path: Path) -> None:
    net = linf_net((1, 4, 4), 3, width=4, depth=2, mean=(0.5,), std=0.25, crop=2, seed=0).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 2, 2)).astype(np.uint8)
    checked(tmp_path, net, images, predict(net, images / np.float32(255)).argmax(axis=1), "1/50")


@pytest.mark.parametrize("numbers", [{"scale": 0.01}, {"lower": -1.0}, {"upper": 7.0}, {"fraction_bits": 4}])
def test_a_domain_of_images_has_no_other_numbers(numbers: dict[str, Any]) -> None:
    """A model file could not say them."""
    with pytest.raises(ValueError, match=r"made by Domain.pixels or Domain.gray_levels"):
        Domain((1, 2, 2), **({"lower": 0.0, "upper": 1.0, "white": 1} | numbers))
    assert domain_from(Domain.pixels((1, 2, 2)).config()) == Domain.pixels((1, 2, 2))


@pytest.mark.parametrize("seed", range(6))
def test_tables_at_their_bounds_are_audited(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower = rng.uniform(-5, 0, 3)
    domain = Domain((3,), tuple(lower), tuple(lower + rng.uniform(0.1, 9, 3)), (1.0, 2.0, 3.0))
    x = np.tile(np.array(domain.upper, np.float32), (3, 1))
    net = linf_net(domain, 3, width=6, depth=2, mean=(0.5,), std=0.25, seed=seed).eval()
    assert all(section.sound for section in audit(net, x, predict(net, x).argmax(axis=1), "0.001"))


def test_the_proved_radius_of_an_unbounded_input_is_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = linf_net(Domain((3,)), 3, width=6, depth=2, std=0.5, seed=0).eval()
    x = np.zeros((1, 3), np.float32)
    found: list[float] = []

    def watching(*arguments: Any, **settings: Any) -> Certificate:
        found.append(float(certify(*arguments, **settings).radius[0]))
        return certify(*arguments, **settings)

    monkeypatch.setattr("linfengine.audit.attacks.certify", watching)
    assert not attack_radii(net, x, predict(net, x).argmax(axis=1), np.random.default_rng(0))["proved"]
    assert found[0] > 0


def test_a_radius_that_float32_does_not_hold_is_refused() -> None:
    net = linf_net(Domain((2,)), 2, width=4, depth=2).eval()
    with pytest.raises(UserError, match="eps: expected a radius from 0 to"):
        pgd(net, np.zeros((1, 2), np.float32), np.array([0]), "1e39")


def test_a_subclass_has_another_digest() -> None:
    class Same(LinfDistDense):
        """Nothing of its own."""

    assert Sequential(Same(3, 2, seed=0)).digest() != Sequential(LinfDistDense(3, 2, seed=0)).digest()
