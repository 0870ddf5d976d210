"""Certificates: for which samples is the prediction proved not to change inside an ℓ∞ ball?

Three methods. All are about the net at p = ∞, and all are strict: a tie fails. ε is in the units of the net's domain,
which are pixel units for images.

    margin     z_y − max_{j≠y} z_j > 2 L ε + 4 E      L: Lipschitz constant, E: bound on the rounding of a logit
    interval   the margin, or lower(z_y) > upper(z_j) for all j ≠ y over the ball clipped to the domain;
               if the last layer is linear, lower(z_y − z_j) > 0 instead: the differences are bounded
    exact      the same two on an exact net (`linfengine.exact`): L is 1, E is 0, all numbers are integers

Bounds over the ball are computed with the forward's own float32 operations; rounding is monotone, so they enclose what
the program computes for every float32 input of the ball. The margin needs the absolute slack 4E instead: each of two
logits is off by at most E at the sample, and again at the perturbed point. Bounds over the ball are computed only if
the margin does not decide, since without rounding they prove whatever the margin proves. Source: docs/soundness.md;
Zhang et al., ICML 2021 (arXiv 2102.05363), section 3 for the exact-arithmetic statements.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..backends import Array
from ..domain import Domain, domain_of
from ..errors import UserError
from ..exact import ExactNet
from ..layers import Module, evaluation
from ..rounding import GUARD, downward, float_below
from ..tensor import no_grad
from ..units import WHITE, Radius
from .checks import check_batch_size, check_labels, check_model, check_samples, claims, copy_of, margins, predict

METHODS = ("exact", "interval", "margin")


@dataclass(frozen=True, repr=False)
class Certificate:
    """The verdict on every sample: `logits` (n, classes), `prediction` (n,), `correct` and `certified` (n,) booleans.

    `margin` (n,) is z_y − max_{j≠y} z_j; margin > `threshold` proves the sample. `radius` (n,) is the largest radius
    proved, in the units of ε, and 0 if none is; for images in pixel units, at most 1. For an exact net
    logits, margins and threshold are exact multiples of 2^-fraction_bits (of a gray level, for images), and `steps`
    (n,) is the radius as a whole number of them; for any other net `fraction_bits` and `steps` are None. `domain` is
    that of the net, `digest` its `Module.digest`, and `samples` the SHA-256 of the inputs as the net took them.
    """

    digest: str
    samples: str
    domain: Domain
    method: str
    eps: Fraction
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
    def fraction_bits(self) -> int | None:
        return self.domain.fraction_bits

    @property
    def gray_levels(self) -> Fraction | None:
        """ε in gray levels; None for inputs that are no images."""
        return WHITE * self.eps if self.domain.white else None

    @property
    def arithmetic(self) -> str:
        if self.fraction_bits is None:
            return "float32 as the program computes it, ε a fraction"
        return f"integers over 2^{self.fraction_bits} {self.domain.unit}, nothing rounded"

    @property
    def rests_on(self) -> str:
        slack = "" if self.fraction_bits is not None else ", less a bound on the rounding of four logits"
        margin = f"the margin, the net being Lipschitz in ℓ∞{slack}"
        valid = "valid pixels" if self.domain.white else "valid inputs"
        return margin if self.method == "margin" else f"{margin}; else bounds on the box clipped to {valid}"


@np.errstate(all="ignore")  # an overflow proves nothing, and is no error
def certify(
    model: Module, inputs: Array, labels: Array, eps: Radius, *, method: str = "interval", batch_size: int = 512
) -> Certificate:
    """Certify `model`, on the device where it is, on inputs (n, ...) of its domain at radius ε.

    The net is evaluated at p = ∞ with its running means. A copy of it, taken at the beginning, is certified: the net is
    not changed, and other threads may use it or train it meanwhile.

    Images are uint8 (n, c, h, w), or float32 pixels in [0, 1], which for an exact net are multiples of 1/255; ε is in
    pixel units. Points and tables are float32 (n, ...) within the bounds of the domain; ε is in units of its scale. An
    exact net is evaluated exactly with every method; the method "exact" is for exact nets only.

    Raises UserError for a model with a finite p or non-finite weights, that does not state its Lipschitz constant or
    rounding, that cannot be copied, or whose exactness cannot be proved; for inputs outside the domain, labels that do
    not fit, or an ε that is no radius. Raises ValueError for an unknown method or a batch_size below 1.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected {', '.join(METHODS[:-1])} or {METHODS[-1]}, got {method!r}")
    check_batch_size(batch_size)
    model = copy_of(model)
    domain = domain_of(model)
    eps = domain.radius(eps)
    if (domain.fraction_bits is not None or isinstance(model, ExactNet)) and type(model) is not ExactNet:
        raise UserError(f"a {type(model).__name__} cannot be certified: only an ExactNet itself is known to be exact")
    check_model(model)
    if method == "exact" and domain.fraction_bits is None:
        raise UserError(
            "this net's arithmetic rounds, so it has no exact certificate: make it exact with quantize first"
        )
    x, labels = check_samples(model, inputs, labels)
    logits = predict(model, x, batch_size)
    check_labels(logits, labels)
    margin, prediction = margins(logits, labels), logits.argmax(axis=1)
    margin[~np.isfinite(logits).all(axis=1)] = -np.inf  # a logit that overflowed proves nothing
    most, magnitude = domain.reach(x, eps)
    lipschitz, error = claims(model, domain, magnitude)
    threshold = _threshold(domain, eps, lipschitz, error)
    certified = (margin > threshold) & (margin > 0)
    by_box: Array = np.zeros(len(x), bool)
    if method != "margin" and math.isfinite(threshold):  # if a layer may overflow, its bounds are not valid
        undecided = np.flatnonzero(~certified & (margin > 0))
        by_box[undecided] = _proved_by_box(model, domain, x[undecided], labels[undecided], eps, batch_size)
    steps, radius = _radii(domain, margin, eps, by_box, lipschitz, error, most)
    samples = hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()
    return Certificate(
        model.digest(), samples, domain, method, eps, threshold, logits, prediction,
        prediction == labels, certified | by_box, margin, radius, steps,
    )  # fmt: skip


def _threshold(domain: Domain, eps: Fraction, lipschitz: float, error: float) -> float:
    """2Lε + 4E, rounded up to float64: margin > threshold proves the sample.

    The margin is rounded to float64, which does no harm: rounding is monotone, and the threshold is a float64 number.
    """
    if domain.fraction_bits is not None:  # a margin on the grid exceeds 2ε if and only if it exceeds this
        return math.floor(2 * domain.steps(eps)) * domain.step
    if math.isinf(error):
        return math.inf
    return math.nextafter(float((2 * Fraction(lipschitz) * eps + 4 * Fraction(error)) * GUARD), math.inf)


def _proved_by_box(model: Module, domain: Domain, x: Array, labels: Array, eps: Fraction, batch_size: int) -> Array:
    """Whether the label's logit is the largest over the whole clipped ball of each sample."""
    proved: Array = np.zeros(len(x), bool)
    with no_grad(), evaluation():
        for start in range(0, len(x), batch_size):
            chosen = slice(start, start + batch_size)
            ball = domain.ball(x[chosen], eps).to(model.device)
            proved[chosen] = model.lowest_margins(ball, labels[chosen]) > 0
    return proved


def _radii(
    domain: Domain, margin: Array, eps: Fraction, by_box: Array, lipschitz: float, error: float, most: Fraction
) -> tuple[Array | None, Array]:
    """(steps, radius) of each sample. For an exact net steps is the largest whole r with 2r < margin in grid steps.

    The radius is at least ε if the box proved ε, and at most `most`. Without a grid steps are None.
    """
    if domain.fraction_bits is not None:
        grid = 1 << domain.fraction_bits
        steps = np.ceil(margin * (grid / 2)).astype(np.int64) - 1
        steps[by_box] = np.maximum(steps[by_box], math.floor(domain.steps(eps)))
        steps = steps.clip(0, math.floor(domain.steps(most)))
        return steps, downward(steps / float(domain.steps(Fraction(1))))
    if math.isinf(error):
        return None, np.zeros(len(margin))
    room = margin - 4 * error * float(GUARD)
    if lipschitz == 0:  # a constant net
        return None, np.where(room > 0, float_below(most), 0.0)
    radius = np.clip(room / (2 * lipschitz * float(GUARD)), 0, float_below(most))
    radius[by_box] = np.maximum(radius[by_box], downward(np.array(float(eps))))
    return None, radius
