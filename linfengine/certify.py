"""Certificates: for which samples is the prediction proved not to change inside an ℓ∞ ball?

Three methods, all about the p = ∞ net, all at an ε in pixel units, all strict (a tie fails):

    margin     z_y − max_{j≠y} z_j > 2 L ε + 4 E      L: Lipschitz constant, E: bound on the rounding of a logit
    interval   that, or lower(z_y) > upper(z_j) for all j ≠ y over the box [max(x − ε, 0), min(x + ε, 1)];
               where the last layer is linear, lower(z_y − z_j) > 0, the difference bounded as such
    exact      the same two on an exact net (`linfengine.exact`): L is 1 a gray level, E is 0, all numbers are integers

Bounds over the box are computed with the forward's own float32 operations; rounding is monotone, so they enclose what
the program computes for every float32 input of the box.  The margin needs the absolute slack 4E instead: two logits,
each off by E at the sample and again at the perturbed point.  Without rounding the box proves whatever the margin does,
so it is looked at only where the margin leaves the question open.  Source: docs/soundness.md; Zhang et al., ICML 2021
(arXiv 2102.05363), section 3 for the exact-arithmetic statements.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from .backends import Array, to_device, to_numpy
from .data import to_pixels
from .domain import WHITE, Domain
from .errors import UserError
from .exact import ExactNet
from .interval import Interval
from .layers import CLAIMS, LARGEST, Module, evaluation, overridden
from .tensor import no_grad

CONFIDENCE = 0.95  # of the bounds on a proportion
METHODS = ("exact", "interval", "margin")
GUARD = 1 + Fraction(1, 10**9)  # of the few float64 operations in a Lipschitz constant and a bound on rounding


@dataclass(frozen=True, repr=False)
class Certificate:
    """The verdict on every sample: `logits` (n, classes), `prediction` (n,), `correct` and `certified` (n,) booleans.

    `margin` (n,) is z_y − max_{j≠y} z_j, and where it exceeds `threshold` it is the proof.  `radius` (n,) is the
    largest radius proved, in pixel units, at most 1, and 0 where nothing is.  For an exact net logits, margins and
    threshold are gray levels, exact multiples of 2^-fraction_bits, and `steps` (n,) is the radius as a whole number of
    those; for any other net `fraction_bits` and `steps` are None.  `digest` is that of the net (`Module.digest`), and
    `samples` the SHA-256 of the images as the net took them.
    """

    digest: str
    samples: str
    method: str
    eps: Fraction
    fraction_bits: int | None
    threshold: float
    logits: Array
    prediction: Array
    correct: Array
    certified: Array
    margin: Array
    radius: Array
    steps: Array | None

    def __repr__(self) -> str:
        certified, right, n = int(self.certified.sum()), int(self.correct.sum()), len(self.correct)
        return f"Certificate({self.method}, ε = {self.eps}: {certified} of {n} certified, {right} right)"

    @property
    def gray_levels(self) -> Fraction:
        """ε in gray levels."""
        return WHITE * self.eps

    @property
    def arithmetic(self) -> str:
        if self.fraction_bits is None:
            return "float32 as the program computes it, ε a fraction"
        return f"integers over 2^{self.fraction_bits} gray levels, nothing rounded"

    @property
    def rests_on(self) -> str:
        slack = "" if self.fraction_bits is not None else ", less a bound on the rounding of four logits"
        margin = f"the margin, the net being Lipschitz in ℓ∞{slack}"
        return margin if self.method == "margin" else f"{margin}; else bounds on the box clipped to valid pixels"


Radius: TypeAlias = str | int | float | Fraction | Decimal | np.floating[Any] | np.integer[Any]

MOST_DIGITS = 60  # of the numerator and of the denominator of a radius


def parse_eps(eps: Radius) -> Fraction:
    """ε as people write it, kept exact: "0.3" is 3/10, "8/255" is 8/255.  Pixel units, 0 ≤ ε ≤ 1.

    A float means what it is nearest to: k/255 where it is within two units in the last place of that, or else a decimal
    number of at most 12 digits (6 for float32); one that is near neither is taken as it is.  Raises UserError for
    anything else, booleans among it, and for a fraction of more than 60 digits.
    """
    return _parse_radius(eps, "eps", 1, "a radius in pixel units from 0 to 1", "0.3 or 8/255")


def parse_gray_levels(levels: Radius) -> Fraction:
    """A radius in gray levels, 0 to 255, as an ε in pixel units, exact: "76.5" is 3/10.  Otherwise as `parse_eps`."""
    return _parse_radius(levels, "gray levels", WHITE, "a radius in gray levels from 0 to 255", "8 or 76.5") / WHITE


def _parse_radius(given: Radius, name: str, most: int, expected: str, such_as: str) -> Fraction:
    try:
        if isinstance(given, str):
            radius = _fraction_in(given)
        elif isinstance(given, float | np.floating):
            radius = _meant_by(given, WHITE // most)
        elif isinstance(given, int | Fraction | Decimal | np.integer) and not isinstance(given, bool):
            radius = Fraction(int(given) if isinstance(given, np.integer) else given)
        else:
            raise TypeError
    except (ValueError, ArithmeticError, TypeError):
        raise UserError(f"{name}: expected a number or a fraction such as {such_as}, got {given!r:.80}") from None
    if not 0 <= radius <= most:
        raise UserError(f"{name}: expected {expected}, got {str(given):.80}")
    if max(radius.numerator, radius.denominator) >= 10**MOST_DIGITS:
        raise UserError(f"{name}: expected a fraction of at most {MOST_DIGITS} digits, got {str(given):.80}")
    return radius


def _fraction_in(text: str) -> Fraction:
    """A decimal number or a fraction in ASCII; its exponent has two digits at most."""
    number = r"[+-]?(\d+(\.\d*)?|\.\d+)"
    if not re.fullmatch(rf"\s*({number}(e[+-]?\d{{1,2}})?|[+-]?\d+/\d+)\s*", text[:200], re.ASCII | re.IGNORECASE):
        raise ValueError
    return Fraction(text)


def _meant_by(number: float | np.floating[Any], parts: int) -> Fraction:
    """The fraction that a float means: k/parts or a short decimal within two units in its last place, or itself."""
    number = np.float64(number) if isinstance(number, float) else number
    exact = Fraction(*number.as_integer_ratio())
    slack = 2 * Fraction(*np.spacing(abs(number)).as_integer_ratio())
    digits = 12 if np.finfo(number.dtype).nmant > 40 else 6
    near = Fraction(round(exact * parts), parts), Fraction(f"{float(number):.{digits}g}")
    return next((each for each in near if abs(each - exact) <= slack), exact)


@np.errstate(all="ignore")  # what overflows proves nothing, and is no error
def certify(
    model: Module,
    pixels: Array,
    labels: Array,
    eps: Radius,
    *,
    method: str = "interval",
    batch_size: int = 512,
) -> Certificate:
    """Certify `model`, on the device where it is, on images (n, c, h, w) at radius ε (pixel units).

    The net is evaluated at p = ∞ with its running means.  What is certified is a copy, taken at the beginning: the net
    is not changed, and other threads may use it, or train it, meanwhile.

    The images are uint8, or float32 pixels in [0, 1], for an exact net multiples of 1/255.  An exact net is evaluated
    exactly whatever the method, and only exact nets have the method "exact".

    Raises UserError for a model with a finite p or non-finite weights, one that does not state what a certificate rests
    on, one that cannot be copied, or one whose exactness cannot be proved; for pixels that are none, labels that do not
    fit, or an ε that is no radius.  ValueError for an unknown method or a batch_size below 1.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected {', '.join(METHODS[:-1])} or {METHODS[-1]}, got {method!r}")
    eps = parse_eps(eps)
    check_batch_size(batch_size)
    model = copy_of(model)
    if isinstance(model, ExactNet) and type(model) is not ExactNet:
        raise UserError(f"a {type(model).__name__} cannot be certified: only an ExactNet itself is known to be exact")
    check_model(model)
    if method == "exact" and not isinstance(model, ExactNet):
        raise UserError(
            "this net's arithmetic rounds, so it has no exact certificate: make it exact with quantize first"
        )
    x, labels = check_samples(model, pixels, labels)
    logits = predict(model, x, batch_size)
    check_labels(logits, labels)
    margin, prediction = margins(logits, labels), logits.argmax(axis=1)
    margin[~np.isfinite(logits).all(axis=1)] = -np.inf  # a logit that overflowed proves nothing
    lipschitz, error = _claims(model)
    threshold = _threshold(model, eps, lipschitz, error)
    certified = (margin > threshold) & (margin > 0)
    by_box: Array = np.zeros(len(x), bool)
    if method != "margin" and math.isfinite(threshold):  # where a layer may overflow, its bounds bound nothing
        undecided = np.flatnonzero(~certified & (margin > 0))
        with no_grad(), evaluation():
            for start in range(0, len(undecided), batch_size):
                chosen = undecided[start : start + batch_size]
                ball = box(model, x[chosen], eps).to(model.device)
                by_box[chosen] = model.lowest_margins(ball, labels[chosen]) > 0
    if isinstance(model, ExactNet):
        bits: int | None = model.fraction_bits
        steps = _steps(model, margin, eps, by_box)
        radius = _downward(steps / (WHITE << model.fraction_bits))
    else:
        bits, steps, radius = None, None, _radius(margin, eps, by_box, lipschitz, error)
    return Certificate(
        model.digest(),
        hashlib.sha256(np.ascontiguousarray(x).data).hexdigest(),
        method,
        eps,
        bits,
        threshold,
        logits,
        prediction,
        prediction == labels,
        certified | by_box,
        margin,
        radius,
        steps,
    )


def copy_of(model: Module) -> Module:
    """A copy of the net that nobody else can change.  Raises UserError where it cannot be copied."""
    try:
        return deepcopy(model)
    except (TypeError, RecursionError) as error:
        raise UserError(f"the model cannot be copied, so what is certified might change meanwhile: {error}") from None


def _threshold(model: Module, eps: Fraction, lipschitz: float, error: float) -> float:
    """A float64 number that no margin may exceed but a certified one: 2Lε + 4E, rounded up.

    That a margin is itself rounded to float64 does not matter: rounding is monotone, and the threshold is a float64.
    """
    if isinstance(model, ExactNet):
        grid = 1 << model.fraction_bits
        return math.floor(2 * WHITE * eps * grid) / grid  # a margin on the grid exceeds 2ε where it exceeds this
    if math.isinf(error):
        return math.inf
    return math.nextafter(float((2 * Fraction(lipschitz) * eps + 4 * Fraction(error)) * GUARD), math.inf)


def _claims(model: Module) -> tuple[float, float]:
    """(L, E) as the net states them, E infinite where float32 may overflow in a ball of radius 1, the largest claimed.

    Raises UserError unless L is finite, and both are numbers of at least 0.
    """
    try:
        lipschitz, (error, size) = float(model.lipschitz()), model.rounding(2.0)  # the ball reaches to 2
    except NotImplementedError as missing:
        raise UserError(f"the model cannot be certified: {missing}") from None
    if not (0 <= lipschitz < math.inf and error >= 0 and size >= 0):
        raise UserError(
            f"the model cannot be certified: it states a Lipschitz constant of {lipschitz}, a rounding of {error} and "
            f"a size of {size}, and all have to be numbers of at least 0, the first finite"
        )
    return lipschitz, float(error) if size <= LARGEST else math.inf


def _steps(model: ExactNet, margin: Array, eps: Fraction, by_box: Array) -> Array:
    """The largest whole r with 2r < margin, both in steps of 2^-f gray levels; at least ε where the box proved that."""
    grid = 1 << model.fraction_bits
    steps = np.ceil(margin * (grid / 2)).astype(np.int64) - 1
    steps[by_box] = np.maximum(steps[by_box], math.floor(WHITE * eps * grid))
    return steps.clip(0, WHITE * grid)


def _radius(margin: Array, eps: Fraction, by_box: Array, lipschitz: float, error: float) -> Array:
    if math.isinf(error):
        return np.zeros(len(margin))
    room = margin - 4 * error * float(GUARD)
    if lipschitz == 0:  # a constant net
        return (room > 0).astype(np.float64)
    radius = np.clip(room / (2 * lipschitz * float(GUARD)), 0, 1)
    radius[by_box] = np.maximum(radius[by_box], _downward(np.array(float(eps))))
    return radius


def _downward(numbers: Array) -> Array:
    """Nonnegative float64 numbers, no larger than those they were rounded from."""
    return np.nextafter(numbers, 0)


def box(model: Module, x: Array, eps: Fraction, *, outward: bool = True) -> Interval:
    """The ball of radius ε (pixel units) around x, clipped to valid pixels, in the numbers that the model takes.

    Its ends are rounded away from x, so that it contains every real image of the ball; with `outward` false towards x,
    as little as possible, so that it is contained in the ball, for an attack.
    """
    if isinstance(model, ExactNet):
        grid = 1 << model.fraction_bits
        levels = WHITE * eps * grid
        reach = np.float32((math.ceil(levels) if outward else math.floor(levels)) / grid)
        centre = x.astype(np.float32)
        return Interval(np.maximum(centre - reach, 0), np.minimum(centre + reach, WHITE))
    centre = x.astype(np.float64)
    if outward:
        radius = math.nextafter(float(eps), math.inf)  # ε itself may round down
        lower = np.nextafter((centre - radius).astype(np.float32), np.float32(-math.inf))
        upper = np.nextafter((centre + radius).astype(np.float32), np.float32(math.inf))
        return Interval(np.clip(lower, 0, 1), np.clip(upper, 0, 1))
    radius = float(eps) if Fraction(float(eps)) <= eps else math.nextafter(float(eps), 0)
    lower, upper = (np.clip(centre + sign * radius, 0, 1).astype(np.float32) for sign in (-1, 1))
    lower = np.where(_within(centre, lower, radius), lower, np.nextafter(lower, np.float32(1)))
    upper = np.where(_within(upper, centre, radius), upper, np.nextafter(upper, np.float32(0)))
    return Interval(np.minimum(lower, x), np.maximum(upper, x))


def _within(a: Array, b: Array, radius: float) -> Array:
    """Whether a − b ≤ radius without rounding: the float64 difference, and what it lost (Knuth's two-sum)."""
    difference = a - b
    back = difference - a
    lost = (a - (difference - back)) - (b + back)
    return np.asarray((difference < radius) | ((difference == radius) & (lost <= 0)))


@np.errstate(all="ignore")
def predict(model: Module, x: Array, batch_size: int = 512) -> Array:
    """Logits (n, classes) of the net at evaluation, p = ∞; x (n, ...) as the net takes it.  The net is not changed.

    Raises UserError for an x that the net does not take, where a distance is given what overflowed, or where the
    process does not compute as IEEE 754 says; ValueError for an empty x or a batch_size below 1.
    """
    check_batch_size(batch_size)
    check_arithmetic()
    if len(x) == 0:
        raise ValueError("predict: expected at least one sample, got none")
    try:
        domain: Domain | None = getattr(model, "domain", None)
        if domain and x.dtype.kind == "f":
            domain.check_range(x)
        with evaluation(), no_grad():
            parts = [to_device(x[start : start + batch_size], model.device) for start in range(0, len(x), batch_size)]
            logits = np.concatenate([model(part).numpy() for part in parts])
    except ValueError as error:  # numbers that are not finite, or an x that does not fit
        raise UserError(f"the model cannot be evaluated on these images: {str(error).rstrip('.')}") from None
    return np.asarray(logits)


def margins(logits: Array, labels: Array) -> Array:
    """z_y − max_{j≠y} z_j (n,), the differences of float32 logits correctly rounded to float64."""
    z = logits.astype(np.float64)
    rows = np.arange(len(z))
    true = z[rows, labels]
    z[rows, labels] = -np.inf
    return np.asarray(true - z.max(axis=1))


def check_labels(logits: Array, labels: Array) -> None:
    """Raises UserError unless every label is a class of the logits, of which there are two at least."""
    if logits.ndim == 2 and logits.shape[1] < 2:
        raise UserError("the model has one class only, so that there is nothing to certify")
    if logits.ndim != 2 or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(
            f"labels from {labels.min()} to {labels.max()} do not fit the model, whose logits have shape {logits.shape}"
        )


def check_batch_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size: expected a whole number from 1 on, got {batch_size!r}")


def check_arithmetic() -> None:
    """Raises UserError unless this thread computes as IEEE 754 says: to the nearest number, with denormals."""
    remedy = "unload the library that set this, or run linfengine in a process of its own"
    if np.float32(2.0**-149) * np.float32(1) == 0:
        raise UserError(
            f"this process flushes denormal numbers to zero, and linfengine needs IEEE arithmetic: {remedy}"
        )
    ulp = np.float32(2.0**-24)
    if np.float32(1) + ulp != 1 or -np.float32(1) - ulp != -1 or np.float32(1) + 3 * ulp != 1 + 4 * ulp:
        raise UserError(
            f"this process does not round to the nearest number, and linfengine needs IEEE arithmetic: {remedy}"
        )


def check_model(model: Module) -> None:
    """Raises UserError unless a certificate may speak of the model: p = ∞, all numbers finite, IEEE arithmetic.

    No method of a class may have been replaced on an object.
    """
    for path, module in type(model).modules(model):
        kind = type(module)
        for name in vars(module):
            if inspect.isroutine(getattr(kind, name, None)):
                raise UserError(f"the model cannot be certified: the {name} of its {kind.__name__} {path} was replaced")
        for claim in CLAIMS:
            if changing := overridden(kind, claim):
                raise UserError(
                    f"the model cannot be certified: the class {kind.__name__} overrides {changing}, so that the "
                    f"{claim} it inherits does not hold for it"
                )
    if not math.isinf(model.p):
        raise UserError(
            f"the model is at p = {model.p:g}: only the p = ∞ net is 1-Lipschitz in ℓ∞, so only that can be certified "
            "(finish its training, or set model.p = math.inf to certify the net at ∞)"
        )
    check_arithmetic()
    for name, array in model.state().items():
        if not np.isfinite(to_numpy(array)).all():
            raise UserError(f"the model cannot be certified: {name} holds values that are not finite")
    if isinstance(model, ExactNet):
        model.check()


def check_samples(model: Module, pixels: Array, labels: Array) -> tuple[Array, Array]:
    """The samples as the model takes them, gray levels for an exact net and pixels in [0, 1] else, and integer labels.

    Raises UserError where they are no images and labels.
    """
    pixels, labels = (np.asarray(to_numpy(array)) for array in (pixels, labels))
    if pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
        raise UserError(f"expected pixels (n, c, h, w) and labels (n,), got shapes {pixels.shape} and {labels.shape}")
    if pixels.dtype not in (np.float32, np.uint8):
        raise UserError(f"expected uint8 images, or float32 pixels in [0, 1], got {pixels.dtype}")
    if len(pixels) == 0:
        raise UserError("there are no samples to certify")
    if labels.dtype.kind not in "iu":
        raise UserError(f"expected integer labels, got {labels.dtype}")
    if labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"expected labels that are numbers of classes, got {labels.max()}")
    labels = labels.astype(np.int64)
    if pixels.dtype == np.uint8:
        return (pixels if isinstance(model, ExactNet) else to_pixels(pixels)), labels
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN as well
        raise UserError("pixels must lie in [0, 1]: a certificate speaks of valid images only")
    if not isinstance(model, ExactNet):
        return pixels, labels
    levels = np.rint(pixels * np.float32(WHITE)).astype(np.uint8)
    for index in np.argwhere(to_pixels(levels) != pixels):
        raise UserError(
            "an exact net takes whole gray levels, uint8 or float32 pixels k/255 as data.to_pixels makes them: "
            f"pixel {tuple(index.tolist())} is {pixels[tuple(index)]!r}"
        )
    return levels, labels


def clopper_pearson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact two-sided confidence interval of a proportion after `successes` out of n.

    lower = Beta^{-1}(α/2; k, n−k+1), upper = Beta^{-1}(1−α/2; k+1, n−k), α = 1 − confidence.  Source: Clopper and
    Pearson, Biometrika 26 (1934).  Raises ValueError unless 0 ≤ successes ≤ n and n ≥ 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    from scipy.special import betaincinv  # late: it takes a third of a second to load

    alpha = 1 - confidence
    lower = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha / 2))
    upper = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - alpha / 2))
    return lower, upper
