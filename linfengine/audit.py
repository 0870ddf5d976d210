"""The audit: everything that can be tried to break a net's certificates, and the engine that made them.

What holds by proof is checked by search: one that finds nothing proves nothing, one that finds something is an alarm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from . import ops, verify
from .attack import pgd, push
from .backends import Array, available_backends, to_numpy, use_backend
from .certify import (
    CONFIDENCE,
    Certificate,
    Radius,
    box,
    certify,
    check_model,
    check_samples,
    clopper_pearson,
    copy_of,
    margins,
    parse_eps,
    predict,
)
from .checkpoint import model_content
from .exact import ExactNet, rounds_nothing
from .layers import LinfDistNet, Module, evaluation
from .tensor import Tensor, no_grad, only_grad


@dataclass(frozen=True)
class Evaluation:
    """Clean, attacked and certified verdicts on the same samples, booleans (n,); no attack leaves `attacked` None."""

    certificate: Certificate
    clean: Array
    attacked: Array | None
    certified: Array

    def summary(self) -> dict[str, Any]:
        """The fractions of n, each with its Clopper–Pearson 95% bounds, as plain numbers for JSON."""
        counts = {"clean": self.clean, "attacked": self.attacked, "certified": self.certified}
        present = {name: verdicts for name, verdicts in counts.items() if verdicts is not None}
        n = len(self.clean)
        return {
            "n": n,
            "eps": str(self.certificate.eps),
            "method": self.certificate.method,
            **{name: float(verdicts.mean()) for name, verdicts in present.items()},
            "bounds": {name: list(clopper_pearson(int(verdicts.sum()), n)) for name, verdicts in present.items()},
            "confidence": CONFIDENCE,
        }


class SoundnessError(RuntimeError):
    """An attack broke a sample that was certified: something is wrong with the engine.  Please report it."""


@np.errstate(all="ignore")
def evaluate(
    model: Module,
    pixels: Array,
    labels: Array,
    eps: Radius,
    *,
    method: str = "interval",
    attack_steps: int = 0,
    restarts: int = 1,
    targeted: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Clean, attacked (PGD, where attack_steps > 0) and certified correctness of every sample at radius ε.

    Raises as `certify` and `pgd`, and SoundnessError unless certified ⊆ attacked ⊆ clean, sample by sample.
    """
    model = copy_of(model)  # one net for both, whatever happens to the other meanwhile
    certificate = certify(model, pixels, labels, eps, method=method)
    clean = certificate.correct
    certified = certificate.certified
    for sample in np.flatnonzero(certified & ~clean):
        raise SoundnessError(f"sample {sample} is certified and yet misclassified")
    attacked = None
    if attack_steps:
        found = pgd(model, pixels, labels, eps, steps=attack_steps, restarts=restarts, targeted=targeted, seed=seed)
        attacked = found.withstood
        for sample in np.flatnonzero(certified & ~attacked):
            raise SoundnessError(f"sample {sample} is certified at eps = {certificate.eps} and yet an attack broke it")
        for sample in np.flatnonzero(attacked & ~clean):
            raise SoundnessError(f"sample {sample} is misclassified and yet counts as withstanding the attack")
    return Evaluation(certificate, clean, attacked, certified)


# ---- The audit ---------------------------------------------------------------------------------------------------

CLAIMS = ("margin/2 >= r", "margin/2 > r", "proved")  # what a radius r may be read off from


@dataclass(frozen=True)
class Section:
    """What one kind of attempt came to: `sound` unless it broke something that is claimed to hold."""

    name: str
    sound: bool
    text: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """The net under audit with its samples, as it takes them, and what it claims of them."""

    model: Module
    images: Array
    labels: Array
    x: Array
    certificate: Certificate
    error: float  # a logit is within it of its exact value
    rng: np.random.Generator

    @property
    def white(self) -> int:
        return self.model.white

    @property
    def exact(self) -> bool:
        return isinstance(self.model, ExactNet)

    @property
    def step(self) -> float:
        return 2.0**-self.model.fraction_bits if isinstance(self.model, ExactNet) else 0.0

    def logits(self, x: Array) -> Array:
        return predict(self.model, x).astype(np.float64)

    def smallest(self, count: int) -> Array:
        """The right predictions with the smallest margins."""
        right = np.flatnonzero(self.certificate.margin > 0)
        return right[np.argsort(self.certificate.margin[right], kind="stable")[:count]]


@np.errstate(all="ignore")
def audit(
    model: Module,
    images: Array,
    labels: Array,
    eps: Radius,
    *,
    effort: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Section]:
    """Try to break the net's certificates at radius ε (pixel units), and the engine; images uint8 (n, c, h, w).

    `effort` multiplies the numbers of attempts; `progress` is told each section's name before it starts.  Raises as
    `certify`.
    """
    eps, model = parse_eps(eps), copy_of(model)
    check_model(model)
    x, labels = check_samples(model, images, labels)
    if images.dtype != np.uint8:
        raise ValueError(f"an audit takes uint8 images, got {images.dtype}")
    certificate = certify(model, images, labels, eps, method="exact" if isinstance(model, ExactNet) else "interval")
    error = 0.0 if isinstance(model, ExactNet) else model.rounding(2.0)[0]
    subject = Subject(model, images, labels, x, certificate, error, np.random.default_rng(seed))
    sections = []
    for name, attempt in SECTIONS.items():
        progress(name)
        sections.append(attempt(subject, effort))
    return sections


def lipschitz_search(subject: Subject, effort: int) -> Section:
    """The largest |f(a) − f(b)| / (L |a − b| + 2E) over pairs of images, 1 being what is proved."""
    found: dict[str, dict[str, float]] = {}
    pairs = 0
    for kind, a, b in _pairs(subject, 512 * effort):
        moved = np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1)
        a, b, moved = a[moved > 0], b[moved > 0], moved[moved > 0]
        if not len(a):
            continue
        change = np.abs(subject.logits(a) - subject.logits(b)).max(axis=1)
        most = subject.model.lipschitz() * moved
        best = found.setdefault(kind, {"ratio": 0.0, "slope": 0.0, "pairs": 0})
        best["ratio"] = max(best["ratio"], float((change / (most + 2 * subject.error)).max(initial=0)))
        best["slope"] = max(best["slope"], float((change / most).max(initial=0)))
        best["pairs"] += len(a)
        pairs += len(a)
    worst = max(found, key=lambda kind: found[kind]["ratio"], default="none")
    ratio = found[worst]["ratio"] if found else 0.0
    text = f"{pairs:,} pairs of images; the closest to the proved bound of 1 was {ratio:.9g} ({worst})"
    return Section("Lipschitz search", ratio <= 1, text, {"bound": 1.0, "by kind": found})


def _pairs(subject: Subject, count: int) -> Iterator[tuple[str, Array, Array]]:
    rng, white = subject.rng, np.float32(subject.white)
    chosen = subject.x[rng.integers(len(subject.x), size=count)].astype(np.float32)

    def valid(x: Array) -> Array:
        if subject.exact:
            x = np.rint(x / np.float32(subject.step)) * np.float32(subject.step)
        return np.clip(x, 0, white).astype(np.float32)

    noise = valid(white * rng.random(chosen.shape, np.float32))
    yield "random pairs", noise, valid(white * rng.random(chosen.shape, np.float32))
    yield "an image and noise", chosen, noise
    yield "two images", chosen, np.roll(chosen, 1, axis=0)
    ball = box(subject.model, subject.x[:count], subject.certificate.eps, outward=False)
    inside = valid(ball.lower + rng.random(ball.shape, np.float32) * (ball.upper - ball.lower))
    yield "two points of a ball", subject.x[:count].astype(np.float32), inside
    flipped = chosen.copy().reshape(count, -1)
    at = np.arange(count), rng.integers(flipped.shape[1], size=count)
    flipped[at] = np.where(flipped[at] > white / 2, 0, white)
    yield "one pixel flipped", chosen, flipped.reshape(chosen.shape)
    way = rng.integers(-1, 2, chosen.shape)
    if subject.exact:
        near = chosen + np.float32(subject.step) * way
    else:
        near = np.where(way == 0, chosen, np.nextafter(chosen, np.where(way > 0, np.float32(2), np.float32(-1))))
    yield "one unit in the last place apart", chosen, valid(near)
    # along the gradient of one logit, which the net promises to follow at the full slope until another path wins
    starts = valid(chosen + white / 16 * rng.standard_normal(chosen.shape, np.float32))
    for scale in (1 / 4, 1 / 64, 1 / 1024):
        yield "along a gradient", starts, valid(starts + scale * white * np.sign(_gradient(subject, starts, None)))
    found = pgd(subject.model, subject.images[:count], subject.labels[:count], subject.certificate.eps, steps=10)
    yield "an image and its worst neighbour", subject.x[:count].astype(np.float32), found.point


def _gradient(subject: Subject, x: Array, others: Array | None) -> Array:
    """Of each sample's largest logit; or less that of the class in `others`."""
    at = Tensor(x, requires_grad=True, device=subject.model.device)
    with evaluation(), only_grad(at):
        z = subject.model(at)
        rows = np.arange(len(x))
        top = z.numpy().argmax(axis=1)
        lead = ops.getitem(z, (rows, top))
        if others is not None:
            lead = lead - ops.getitem(z, (rows, others))
        ops.sum(lead).backward()
    assert at.grad is not None
    return to_numpy(at.grad)


def attack_section(subject: Subject, effort: int) -> Section:
    """PGD with restarts, on the smooth net's gradient too, targeted, and then a search among the last places."""
    certificate = subject.certificate
    certified = np.flatnonzero(certificate.certified)
    settings: dict[str, Any] = {
        "steps": 20,
        "restarts": 2 * effort,
        "targeted": True,
        "smooth": True,
        "rounding": 20 * effort,
    }
    if not len(certified):
        return Section("attack on what is certified", True, "no sample is certified at this radius", settings)
    found = pgd(
        subject.model, subject.images[certified], subject.labels[certified], certificate.eps,
        seed=int(subject.rng.integers(2**31)), **settings,
    )  # fmt: skip
    broken = certified[~found.withstood].tolist()
    text = f"{len(certified):,} certified samples attacked, {len(broken)} broken"
    if broken:
        text += f", the first sample {broken[0]}"
    drop = (certificate.margin[certified] - found.margin) / (2 * subject.model.lipschitz() * subject.white)
    figures = settings | {
        "certified": len(certified),
        "broken": broken,
        "margin": certificate.margin[certified].tolist(),
        "attacked margin": found.margin.tolist(),
        "largest drop of the margin, in eps": float(drop.max() / max(float(certificate.eps), 1e-300)),
    }
    return Section("attack on what is certified", not broken, text, figures)


def agreement(subject: Subject, effort: int) -> Section:
    """Logits and bounds of every backend, instruction set and number of threads: the same bits where nothing but ℓ∞."""
    x = subject.x[: 32 * effort]
    bitwise = all(rounds_nothing(layer) for name, layer in subject.model.modules() if name)
    results: dict[str, tuple[Array, ...]] = {}
    for name in available_backends():
        model = deepcopy(subject.model).to("cuda" if name == "gpu" else "cpu")
        for setting, pinned in _settings(name):
            with use_backend(name), pinned, evaluation(), no_grad():
                bounds = model(box(model, x, subject.certificate.eps).to(model.device)).to("cpu")
                results[setting] = predict(model, x), bounds.lower, bounds.upper
    first = next(iter(results.values()))
    if bitwise:
        differing = [
            s
            for s, each in results.items()
            if any(a.tobytes() != b.tobytes() for a, b in zip(first, each, strict=True))
        ]
        text = f"{len(results)} combinations of backend, instruction set and threads, bit for bit"
    else:
        differing = [s for s, each in results.items() if np.abs(first[0] - each[0]).max() > 2 * subject.error]
        text = f"{len(results)} combinations of backend, instruction set and threads, within 2E (the net's head rounds)"
    text += f"; differing: {', '.join(differing)}" if differing else "; none differs"
    return Section("agreement", not differing, text, {"combinations": list(results), "differing": differing})


def _settings(name: str) -> Iterator[tuple[str, Any]]:
    if name != "cpu":
        yield name, nullcontext()
        return
    from .backends import cpu

    for isa, threads in itertools.product(cpu.instruction_sets(), sorted({1, 2, cpu.threads()})):
        yield f"cpu {isa} with {threads} threads", _pinned(isa, threads)


@contextmanager
def _pinned(isa: str, threads: int) -> Iterator[None]:
    from .backends import cpu

    before = cpu.instruction_set(), cpu.threads()
    cpu.use_instruction_set(isa)
    cpu.use_threads(threads)
    try:
        yield
    finally:
        cpu.use_instruction_set(before[0])
        cpu.use_threads(before[1])


def gradients(subject: Subject, effort: int) -> Section:
    """A margin is piecewise linear: where its gradient is the same along a segment, it predicts the change exactly."""
    name = "gradients"
    if not all(rounds_nothing(layer) for path, layer in subject.model.modules() if path):
        return Section(name, True, "not tried: the net is not piecewise linear", {})
    count = 256 * effort
    chosen = subject.rng.integers(len(subject.x), size=count)
    x = subject.x[chosen].astype(np.float32)
    z = subject.logits(x)
    rows, top = np.arange(count), z.argmax(axis=1)
    z[rows, top] = -np.inf
    second = z.argmax(axis=1)
    step = np.float32(max(subject.step, 1 / 4) if subject.exact else subject.white / 1024)
    way = subject.rng.integers(-1, 2, x.shape).astype(np.float32)
    points = [np.clip(x + step * k * way, 0, subject.white).astype(np.float32) for k in range(5)]
    slopes = [_gradient(subject, point, second) for point in points]
    flat = [slope.reshape(count, -1) for slope in slopes]
    straight = np.all([(each == flat[0]).all(axis=1) for each in flat], axis=0)
    moved = (points[-1].astype(np.float64) - points[0]).reshape(count, -1)
    predicted = (flat[0].astype(np.float64) * moved).sum(axis=1)
    ends = [subject.logits(point) for point in (points[0], points[-1])]
    change = np.subtract(*[each[rows, top] - each[rows, second] for each in reversed(ends)])
    wrong = np.abs(change - predicted)[straight]
    allowed = 4 * subject.error + 1e-12 * subject.white * subject.model.lipschitz()
    worst = float(wrong.max(initial=0))
    text = (
        f"{int(straight.sum())} of {count} segments have no kink, so that the gradient predicts the margin's change: "
        f"off by at most {worst:.3g}, rounding allows {allowed:.3g}"
    )
    figures = {"segments": count, "without a kink": int(straight.sum()), "largest error": worst, "allowed": allowed}
    return Section(name, worst <= allowed, text, figures)


def exact_evaluation(subject: Subject, effort: int) -> Section:
    """The certificates of the samples with the smallest margins against integers that never round."""
    name = "exact evaluation"
    try:
        referee = Referee(subject.model)
    except verify.Disagreement as reason:
        return Section(name, True, f"not tried: {reason}", {})
    chosen = subject.smallest(8 * effort)
    errors, false = [], []
    certificate = subject.certificate
    for i in chosen.tolist():
        z = referee.logits(subject.images[i])
        computed = [Fraction(float(each)) for each in certificate.logits[i]]
        errors.append(float(max(abs(a - b) for a, b in zip(z, computed, strict=True))))
        y = int(subject.labels[i])
        lead = z[y] - max(each for j, each in enumerate(z) if j != y)
        by_margin = certificate.margin[i] > certificate.threshold
        if by_margin and not lead > 2 * referee.lipschitz * certificate.eps * (subject.white if subject.exact else 1):
            false.append(i)
    worst = max(errors, default=0.0)
    margins_tried = "the smallest margin" if len(chosen) == 1 else f"the {len(chosen)} smallest margins"
    text = (
        f"{margins_tried} evaluated in unlimited integers: logits off by at most {worst:.3g} "
        f"(proved {subject.error:.3g}), {len(false)} certificates refuted"
    )
    figures = {"samples": chosen.tolist(), "errors": errors, "proved": subject.error, "refuted": false}
    return Section(name, worst <= subject.error and not false, text, figures)


class Referee(verify.Net):
    """The checker's net with every rounding left out: exact logits of the real-valued net.

    A division by std is avoided by multiplying everything after it by std, which multiplies the logits.
    """

    def __init__(self, model: Module) -> None:
        super().__init__(model_content(model))
        self.lipschitz, _ = self.slack()
        self.unit = Fraction(1, 1 << self.grain)
        if not self.exact:
            first, *others = self.layers
            if first["layer"] != "Normalize" or any(layer["layer"] == "Normalize" for layer in others):
                raise verify.Disagreement("only a net that begins with its one Normalize is evaluated exactly")
            std, first["std"] = first["std"], 1
            self.unit /= std
            for layer, part in itertools.product(others, ("weight", "bias", "running_mean")):
                if isinstance(layer.get(part), list):
                    layer[part] = _times(layer[part], std)
        self.round = lambda numerator, denominator=1: numerator // denominator

    def logits(self, image: Array) -> list[Fraction]:
        pixels = [self.pixel(level) for level in image.ravel().tolist()]
        return [z * self.unit for z in self([pixels], image.shape)[0]]


def _times(numbers: Any, factor: int) -> Any:
    return [_times(each, factor) for each in numbers] if isinstance(numbers, list) else numbers * factor


def floating_point_attack(subject: Subject, effort: int) -> Section:
    """Radii read off a float32 margin and believed, and radii that are proved, attacked in the last place."""
    rng = np.random.default_rng(subject.rng.integers(2**31))
    chosen = subject.smallest(16 * effort)
    images = [(subject.model, subject.images[i : i + 1], subject.labels[i : i + 1]) for i in chosen]
    nets = [random_net(rng) for _ in range(200 * effort)]
    figures: dict[str, Any] = {}
    for what, cases in (("random 8-16-3 nets", nets), ("samples of this net", images)):
        beaten = [attack_radii(*case, rng) for case in cases]
        figures[what] = {"tried": len(cases)} | {claim: sum(each[claim] for each in beaten) for claim in CLAIMS}
    parts = [
        f"{', '.join(f'{each[claim]} by {claim!r}' for claim in CLAIMS)} of {each['tried']} {what}"
        for what, each in figures.items()
    ]
    text = f"radii beaten: {'; '.join(parts)}"
    return Section("floating-point attack", not any(each[CLAIMS[-1]] for each in figures.values()), text, figures)


def random_net(rng: np.random.Generator) -> tuple[LinfDistNet, Array, Array]:
    """An 8-16-3 net with normal weights, an image and the label predicted for it."""
    seed = int(rng.integers(2**31))
    net = LinfDistNet((1, 2, 4), 3, width=16, depth=2, mean=(0.0,), std=0.25, identity=False, seed=seed)
    x = rng.random((1, 1, 2, 4), np.float32)
    return net, x, predict(net, x).argmax(axis=1)


def attack_radii(model: Module, image: Array, label: Array, rng: np.random.Generator) -> dict[str, bool]:
    """Whether an image at exact distance of at most a radius r changes the prediction, for each of the CLAIMS on r.

    The naive ones are made of the float32 margin, in float32.
    """
    x, label = check_samples(model, image, label)
    half = np.float32(margins(predict(model, x), label)[0]) / np.float32(2 * model.lipschitz() * model.white)
    proof = certify(model, image, label, 0, method="margin")
    if isinstance(model, ExactNet) and proof.steps is not None:
        proved = Fraction(int(proof.steps[0]), model.white << model.fraction_bits)
    else:
        proved = Fraction(float(proof.radius[0]))
    beaten = []
    for radius in (Fraction(float(half)), Fraction(float(np.nextafter(half, np.float32(0)))), proved):
        points = push(model, x, label, min(radius, Fraction(1)), rng)
        beaten.append(radius > 0 and bool((predict(model, points).argmax(axis=1) != label).any()))
    return dict(zip(CLAIMS, beaten, strict=True))


SECTIONS: dict[str, Callable[[Subject, int], Section]] = {
    "Lipschitz search": lipschitz_search,
    "attack on what is certified": attack_section,
    "agreement": agreement,
    "gradients": gradients,
    "exact evaluation": exact_evaluation,
    "floating-point attack": floating_point_attack,
}
