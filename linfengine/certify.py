"""Certificates: for which samples is the prediction proved not to change inside an ℓ∞ ball?

Two methods, both about the p = ∞ net, both in pixel units, both strict (a tie fails):

    margin     z_y − max_{j≠y} z_j > 2 L ε + 4 E      L: Lipschitz constant, E: bound on the rounding of a logit
    interval   lower(z_y) > upper(z_j) for all j ≠ y   bounds over the box [max(x − ε, 0), min(x + ε, 1)]

Interval bounds are computed with the forward's own float32 operations; rounding is monotone, so they enclose what the
program computes for every float32 input of the box.  The margin needs the absolute slack 4E instead: two logits, each
off by E at the sample and again at the perturbed point.  Source: docs/soundness.md; Zhang et al., ICML 2021
(arXiv 2102.05363), section 3 for the exact-arithmetic statements.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.stats import beta

from .backends import Array
from .errors import UserError
from .interval import Interval
from .layers import LARGEST, Module
from .tensor import no_grad

METHODS = ("interval", "margin")


@dataclass(frozen=True)
class Certificate:
    """The verdict on every sample: `prediction` (n,), `correct` and `certified` (n,) booleans, `margin` (n,) float64.

    For `method` margin, `radius` (n,) is the largest radius proved (pixel units, at most 1, and 0 where the prediction
    is wrong).  For interval there is no radius, and `margin` is min_j (lower(z_y) − upper(z_j)).
    """

    method: str
    eps: Fraction
    prediction: Array
    correct: Array
    certified: Array
    margin: Array
    radius: Array | None


def parse_eps(text: str | int | float | Fraction) -> Fraction:
    """ε as people write it, kept exact: "0.3" is 3/10, "8/255" is 8/255.  Pixel units, 0 ≤ ε ≤ 1.

    Raises UserError for anything else.
    """
    try:
        if isinstance(text, str) and (len(text) > 60 or re.search(r"e[+-]?\d{4}", text, re.IGNORECASE)):
            # 1e-99999999 would take for ever to write out
            raise ValueError
        eps = Fraction(str(text)) if isinstance(text, float) else Fraction(text)
    except (ValueError, ZeroDivisionError, TypeError):
        raise UserError(f"eps: expected a number or a fraction such as 0.3 or 8/255, got {text!r}") from None
    if not 0 <= eps <= 1:
        raise UserError(f"eps: expected a radius in pixel units from 0 to 1, got {text}")
    return eps


def certify(
    model: Module,
    pixels: Array,
    labels: Array,
    eps: str | float | Fraction,
    *,
    method: str = "interval",
    batch_size: int = 512,
) -> Certificate:
    """Certify `model` on float32 pixels (n, c, h, w) in [0, 1] at radius ε (pixel units); leaves it in evaluation mode.

    Raises UserError for a model with a finite p or non-finite weights, pixels outside [0, 1], labels that do not fit,
    or an ε that is no radius; ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected {' or '.join(METHODS)}, got {method!r}")
    eps = parse_eps(eps)
    pixels, labels = check_samples(pixels, labels)
    check_model(model)
    model.eval()
    one = _certify_interval if method == "interval" else _certify_margin
    parts = []
    with no_grad():
        for start in range(0, len(pixels), batch_size):
            x, y = pixels[start : start + batch_size], labels[start : start + batch_size]
            parts.append(one(model, x, y, eps))
    prediction, certified, margin, *radius = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Certificate(method, eps, prediction, prediction == labels, certified, margin, radius[0] if radius else None)


def box(pixels: Array, eps: Fraction) -> Interval:
    """The clipped box [max(x − ε, 0), min(x + ε, 1)] in float32, its ends rounded away from x by one place."""
    centre, radius = pixels.astype(np.float64), math.nextafter(float(eps), math.inf)  # ε itself may round down
    lower = np.nextafter((centre - radius).astype(np.float32), np.float32(-np.inf))
    upper = np.nextafter((centre + radius).astype(np.float32), np.float32(np.inf))
    return Interval(np.clip(lower, 0, 1), np.clip(upper, 0, 1))


def predict(model: Module, pixels: Array, batch_size: int = 512) -> Array:
    """Logits (n, classes) of the net at evaluation, a mode it is left in."""
    model.eval()
    with no_grad():
        batches = [model(pixels[i : i + batch_size]).numpy() for i in range(0, len(pixels), batch_size)]
    return np.concatenate(batches)


def margins(logits: Array, labels: Array) -> Array:
    """z_y − max_{j≠y} z_j (n,), the differences of float32 logits being exact enough in float64."""
    z = logits.astype(np.float64)
    rows = np.arange(len(z))
    true = z[rows, labels]
    z[rows, labels] = -np.inf
    return np.asarray(true - z.max(axis=1))


def _certify_margin(model: Module, pixels: Array, labels: Array, eps: Fraction) -> tuple[Array, ...]:
    logits = _logits(model, pixels, labels)
    prediction = logits.argmax(axis=1)
    margin = margins(logits, labels)
    lipschitz = model.lipschitz()
    error, size = model.rounding(2.0)  # a ball of radius 1, the largest claimed, reaches to 2
    guard = 1 + 1e-9  # of the few float64 operations here
    room = margin - 4 * error * guard
    if not size <= LARGEST:
        room[:] = 0
    certified = room > 2 * lipschitz * float(eps) * guard
    if lipschitz == 0:  # a constant net
        return prediction, certified, margin, (room > 0).astype(np.float64)
    return prediction, certified, margin, np.clip(room / (2 * lipschitz * guard), 0, 1)


def _certify_interval(model: Module, pixels: Array, labels: Array, eps: Fraction) -> tuple[Array, ...]:
    prediction = _logits(model, pixels, labels).argmax(axis=1)
    bounds = model(box(pixels, eps))
    rows = np.arange(len(labels))
    worst = bounds.upper.copy()
    worst[rows, labels] = bounds.lower[rows, labels]  # the lowest logit of the label against the highest of the others
    margin = margins(worst, labels)
    return prediction, margin > 0, margin  # and no radius: the bounds speak of this ε alone


def _logits(model: Module, pixels: Array, labels: Array) -> Array:
    """Logits (n, classes).  Raises UserError unless every label is a class of theirs."""
    logits: Array = model(pixels).numpy()
    if logits.ndim != 2 or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(
            f"labels from {labels.min()} to {labels.max()} do not fit the model, whose logits have shape {logits.shape}"
        )
    return logits


def check_model(model: Module) -> None:
    """Raises UserError unless a certificate may speak of the model: p = ∞, all numbers finite, IEEE arithmetic."""
    if not math.isinf(model.p):
        raise UserError(
            f"the model is at p = {model.p:g}: only the p = ∞ net is 1-Lipschitz in ℓ∞, so only that can be certified "
            "(finish its training, or set model.p = math.inf to certify the net at ∞)"
        )
    if np.float32(2.0**-149) * np.float32(1) == 0:
        raise UserError("this process flushes denormal numbers to zero, and certificates need IEEE arithmetic")
    for name, array in model.state().items():
        if not np.isfinite(array).all():
            raise UserError(f"the model cannot be certified: {name} holds values that are not finite")


def check_samples(pixels: Array, labels: Array) -> tuple[Array, Array]:
    """The samples as float32 pixels (n, c, h, w) and integer labels.  Raises UserError where they are no such thing."""
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    if pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
        raise UserError(f"expected pixels (n, c, h, w) and labels (n,), got shapes {pixels.shape} and {labels.shape}")
    if pixels.dtype != np.float32:
        raise UserError(f"expected float32 pixels in [0, 1], got {pixels.dtype} (data.to_pixels converts bytes)")
    if len(pixels) == 0:
        raise UserError("there are no samples to certify")
    if not ((pixels >= 0) & (pixels <= 1)).all():  # false for NaN as well
        raise UserError("pixels must lie in [0, 1]: a certificate speaks of valid images only")
    if labels.dtype.kind not in "iu":
        raise UserError(f"expected integer labels, got {labels.dtype}")
    return pixels, labels


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided confidence interval of a proportion after `successes` out of n.

    lower = Beta^{-1}(α/2; k, n−k+1), upper = Beta^{-1}(1−α/2; k+1, n−k), α = 1 − confidence.  Source: Clopper and
    Pearson, Biometrika 26 (1934).  Raises ValueError unless 0 ≤ successes ≤ n and n ≥ 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    alpha = 1 - confidence
    lower = 0.0 if successes == 0 else float(beta.ppf(alpha / 2, successes, n - successes + 1))
    upper = 1.0 if successes == n else float(beta.ppf(1 - alpha / 2, successes + 1, n - successes))
    return lower, upper
