"""Points and tables go the whole way: trained, certified, attacked, audited, quantized, saved and checked again."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.op_cases import Array

import linfengine as le
from linfengine.attack import pgd, push
from linfengine.audit import audit
from linfengine.certify import certify, predict, write_certificate
from linfengine.data import Dataset, toy_moons
from linfengine.domain import domain_of
from linfengine.errors import UserError
from linfengine.evaluate import evaluate
from linfengine.layers import Sequential
from linfengine.recipes import make_recipe
from linfengine.train import MODEL, Observer, train
from linfengine.verify import Disagreement, verify

SQUARE = le.Domain((2,), 0, 1)


def trained(net: Sequential, x: Array, labels: Array, margin: float, epochs: int = 30) -> Sequential:
    """A net after full-batch steps of the hinge loss, the last ones at p = ∞."""
    optimizer = le.Adam(net.parameters(), lr=0.03)
    for epoch in range(epochs):
        net.p = 8 * 1.2**epoch if epoch < epochs - 8 else math.inf
        loss = le.hinge(net.train()(le.Tensor(x)), labels, margin)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    return net


@pytest.fixture(scope="module")
def moons() -> tuple[Sequential, Array, Array]:
    x, labels = toy_moons(256, np.random.default_rng(0))
    net = le.linf_net(SQUARE, 2, width=24, depth=3, mean=(0.5,), std=0.25)
    return trained(net, x, labels, 0.05 / 0.25), x, labels


def scaled_table(n: int = 200) -> tuple[le.Domain, Array, Array]:
    """Columns of five sizes, two of them without an end, the class decided by two of them."""
    rng = np.random.default_rng(1)
    scale = np.array([1, 100, 1e-3, 5, 2], np.float32)
    x = (rng.standard_normal((n, 5)) * scale).astype(np.float32)
    x[:, 2], x[:, 4] = x[:, 2].clip(-1e-3, 1e-3), abs(x[:, 4])
    lower, upper = (-np.inf, -np.inf, -1e-3, -1e3, 0), (np.inf, 1e4, 1e-3, 1e3, np.inf)
    domain = le.Domain((5,), lower, upper, tuple(scale.tolist()))
    x = domain.clip(x)
    return domain, x, (x[:, 0] + x[:, 1] / 100 > 0).astype(int)


@pytest.fixture(scope="module")
def table() -> tuple[Sequential, Array, Array]:
    domain, x, labels = scaled_table()
    means, scale = tuple(x.mean(axis=0).tolist()), domain.scale
    net = le.linf_net(domain, 2, width=24, depth=2, mean=means, std=scale)
    return trained(net, x, labels, 0.2), x, labels


def issue(folder: Path, net: Sequential, x: Array, labels: Array, eps: Any, method: str) -> dict[str, Any]:
    le.save_model(net, folder / "model")
    certificate = certify(net, x, labels, eps, method=method)
    write_certificate(folder / "certificate", certificate, folder / "model", x, labels)
    loaded, _ = le.load_model(folder / "model")
    assert loaded.digest() == net.digest()
    assert loaded(x).numpy().tobytes() == net(x).numpy().tobytes()
    return verify(folder / "certificate", folder / "model", x, labels)


def test_points_train_by_a_recipe(tmp_path: Path) -> None:
    """A data set of one's own, and a recipe that names none."""
    (x, labels), (tx, test_labels) = (toy_moons(n, np.random.default_rng(n)) for n in (300, 100))
    moons = Dataset("moons", ("arch", "bowl"), x, labels, tx, test_labels, (0.5,), 0.25, SQUARE)
    settings = {"loss": "hinge", "epochs": 24, "ramp_start": 8, "ramp_end": 20, "eps_train": 0.05, "lr": 0.02}
    settings |= {"width": 24, "depth": 3, "batch_size": 50, "held_out": 50, "eps_test": 0.05}
    net = train(make_recipe({"dataset": "", **settings}), moons, tmp_path, observer=Observer())
    assert net.domain == SQUARE
    assert certify(net, tx, test_labels, "0.05").certified.mean() > 0.6
    again, metadata = le.load_model(tmp_path / MODEL)
    assert metadata["dataset"] == "moons"
    assert again(tx).numpy().tobytes() == net(tx).numpy().tobytes()


@pytest.mark.parametrize("method", ["interval", "margin"])
def test_points_are_certified_and_checked(moons: Any, method: str, tmp_path: Path) -> None:
    net, x, labels = moons
    header = issue(tmp_path, net, x, labels, "1/20", method)
    assert header["gray_levels"] is None
    assert header["certified"]["count"] > len(x) // 2
    found = evaluate(net, x, labels, "1/20", method=method, attack_steps=10)  # certified ⊆ attacked ⊆ clean
    assert found.certified.sum() == header["certified"]["count"]


def test_points_become_exact(moons: Any, tmp_path: Path) -> None:
    """A net on the grid 2^-15, whose logits are those of the net but for the rounding of its weights."""
    net, x, labels = moons
    exact = le.quantize(net)
    assert (exact.fraction_bits, exact.domain.lower, exact.domain.upper) == (15, 0, 1)
    points = exact.domain.snap(x)
    np.testing.assert_allclose(predict(exact, points) / 0.25, predict(net, points), atol=2 * 2.0**-15 / 0.25)
    header = issue(tmp_path, exact, points, labels, "1/20", "exact")
    assert header["certified"]["count"] > len(x) // 2
    with pytest.raises(UserError, match="multiples of 2\\^-15, got numbers between these"):
        certify(exact, x, labels, "1/20", method="exact")


def test_tables_are_certified_and_checked(table: Any, tmp_path: Path) -> None:
    net, x, labels = table
    header = issue(tmp_path, net, x, labels, "0.1", "interval")
    assert header["certified"]["count"] > len(x) // 2
    assert net.layers[0].std == domain_of(net).scale
    with pytest.raises(UserError, match="each column has its own here"):
        le.quantize(net)


@pytest.mark.parametrize("name", ["moons", "exact moons", "table"])
def test_an_audit_finds_nothing(name: str, moons: Any, table: Any) -> None:
    net, x, labels = table if name == "table" else moons
    if name == "exact moons":
        net = le.quantize(net)
        x = net.domain.snap(x)
    for section in audit(net, x[:60], labels[:60], "0.05"):
        assert section.sound, (section.name, section.text)


@given(seed=st.integers(0, 999), eps=st.fractions(0, 2, max_denominator=40))
@settings(max_examples=30)
def test_no_point_of_a_certified_ball_is_classified_otherwise(seed: int, eps: Fraction) -> None:
    """Nets with random weights, and radii scaled for each column."""
    rng = np.random.default_rng(seed)
    domain, x, _ = scaled_table(20)
    std = tuple((np.array(domain.scale) * rng.uniform(0.5, 2, 5)).tolist())
    net = le.linf_net(domain, 3, width=6, depth=2, mean=(0.0,), std=std, seed=seed).eval()
    labels = predict(net, x).argmax(axis=1)
    verdict = certify(net, x, labels, eps)
    ball = domain.ball(x, eps, outward=False)
    for _ in range(20):
        point = domain.clip(ball.lower + (ball.upper - ball.lower) * rng.integers(0, 2, x.shape))
        point = np.clip(point, ball.lower, ball.upper)
        assert (predict(net, point).argmax(axis=1) == labels)[verdict.certified].all()
    assert pgd(net, x, labels, eps, steps=3).withstood[verdict.certified].all()


def test_a_radius_that_is_proved_is_not_beaten(table: Any) -> None:
    """Pushed to the ends of a ball of half the margin, in units of each column."""
    net, x, labels = table
    verdict = certify(net, x, labels, 0, method="margin")
    rng = np.random.default_rng(0)
    for i in np.flatnonzero(verdict.radius > 0)[:20]:
        points = push(net, x[i : i + 1], labels[i : i + 1], Fraction(float(verdict.radius[i])), rng)
        assert (predict(net, points).argmax(axis=1) == labels[i]).all()
        assert (
            domain_of(net).distance(np.repeat(x[i : i + 1], len(points), axis=0), points)
            <= verdict.radius[i] * (1 + 1e-6)
        ).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 1, 2, 2), np.uint8), r"expected inputs \(n, 2\) and labels \(n,\), got shapes"),
        (np.zeros((2, 3), np.float32), r"takes inputs \(n, 2\), got shape \(2, 3\)"),
        (np.zeros((2, 2), np.uint8), "got uint8"),
        (np.full((2, 2), 2, np.float32), "got numbers from 2 to 2"),
    ],
)
def test_inputs_that_are_none(moons: Any, x: Array, message: str) -> None:
    with pytest.raises(UserError, match=message):
        certify(moons[0], x, np.zeros(2, int), "0.1")


def test_other_data_are_told_from_those_certified(moons: Any, tmp_path: Path) -> None:
    net, x, labels = moons
    issue(tmp_path, net, x, labels, "1/20", "interval")
    moved = x.copy()
    moved[3, 0] = np.nextafter(moved[3, 0], np.float32(2))
    for data in (moved, x.astype(np.float64), x[:, :1], np.where(x == x.max(), np.float32(2), x)):
        with pytest.raises(Disagreement):
            verify(tmp_path / "certificate", tmp_path / "model", data, labels)
