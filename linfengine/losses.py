"""Losses on logits z (n, classes) and labels y (n,), averaged over the batch.

The robust losses use the worst case within the training radius ε (net units: ε_pixel/std). For a net that is
1-Lipschitz after its Normalize, a perturbation raises z_j − z_y by at most 2ε:

    worst_j = z_j − z_y + 2ε  for j ≠ y,   0  for j = y

A net with a linear head bounds these differences itself (`Sequential.worst_case`); they are then passed as `worst`.
"""

from __future__ import annotations

import math

import numpy as np

from . import ops
from .backends import Array, backend_of, to_numpy
from .tensor import Tensor


def cross_entropy(logits: Tensor, labels: Array) -> Tensor:
    """CE = −mean log softmax(z)_y.

    Raises ValueError when the labels do not fit the logits.
    """
    labels = _check_labels(logits, labels)
    picked = ops.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return -ops.mean(picked)


def robust_cross_entropy(
    logits: Tensor, labels: Array, eps: float, kappa: float = 1.0, *, worst: Tensor | None = None
) -> Tensor:
    """κ·CE(worst, y) + (1 − κ)·CE(z, y): the cross-entropy of the worst case, mixed with the ordinary one.

    Source: Zhang et al., ICML 2021 (arXiv 2102.05363), section 5, for nets with an MLP on top. Raises ValueError when
    the labels do not fit the logits, ε is negative or not finite, or κ lies outside [0, 1].
    """
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [0, 1], got {kappa}")
    robust = cross_entropy(_worst_case(logits, labels, eps, worst), labels)
    return robust * kappa + cross_entropy(logits, labels) * (1 - kappa)


def hinge(logits: Tensor, labels: Array, eps: float, mix: float = 0.75, *, worst: Tensor | None = None) -> Tensor:
    """mean over the batch of  mix·max_j (worst_j)₊ + (1 − mix)·mean_j (worst_j)₊.

    Source: Zhang et al., ICML 2021 (arXiv 2102.05363), section 5. Raises ValueError when the labels do not fit the
    logits, ε is negative or not finite, or mix lies outside [0, 1].
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix must lie in [0, 1], got {mix}")
    worst = ops.relu(_worst_case(logits, labels, eps, worst))
    return ops.mean(ops.max(worst, axis=1)) * mix + ops.mean(worst) * (1 - mix)


def mixture(
    logits: Tensor, labels: Array, eps: float, weight: float, scale: Tensor | float = 1.0, *, clip: bool = True
) -> Tensor:
    """mean over the batch of  clip(max_j worst_j / 2ε, 0, 1) + λ·CE(s·z, y), λ = `weight`, s = `scale`.

    The first term is 1 for a wrong prediction, 0 for a margin of 2ε or more, and linear in between. The second gives a
    gradient to samples outside this range; λ shrinks while p grows. s is learned. Without `clip` the first term grows
    with the size of a negative margin.

    Source: Zhang et al., ICLR 2022 (arXiv 2110.06850), section 4. Raises ValueError when the labels do not fit the
    logits, ε is not positive and finite, or λ is negative or not finite.
    """
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    worst = ops.max(_worst_case(logits, labels, eps), axis=1) / (2 * float(eps))
    robust = ops.mean(ops.clip(worst, 0, 1) if clip else ops.relu(worst))
    return robust + cross_entropy(logits * scale, labels) * weight if weight else robust


def _worst_case(logits: Tensor, labels: Array, eps: float, worst: Tensor | None = None) -> Tensor:
    if not (eps >= 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be finite and not negative, got {eps}")
    labels = _check_labels(logits, labels)
    if worst is not None:
        if worst.shape != logits.shape:
            raise ValueError(f"worst: expected the shape of the logits, {logits.shape}, got {worst.shape}")
        return worst
    xp = backend_of(logits.data).xp
    others = (xp.arange(logits.shape[1]) != xp.asarray(labels)[:, None]).astype(logits.dtype)
    true = ops.reshape(logits[np.arange(len(labels)), labels], (-1, 1))
    return (logits - true + 2 * float(eps)) * others


def _check_labels(logits: Tensor, labels: Array) -> Array:
    """The labels as indices on the CPU, one for each sample."""
    labels = np.asarray(to_numpy(labels))
    if logits.ndim != 2 or labels.shape != (logits.shape[0],):
        raise ValueError(
            f"labels: expected logits (n, classes) and labels (n,), got shapes {logits.shape} and {labels.shape}"
        )
    if len(labels) == 0:
        raise ValueError("labels: expected at least one sample, got none")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers, got {labels.dtype}")
    if not (0 <= labels.min() and labels.max() < logits.shape[1]):
        raise ValueError(
            f"labels: expected 0 to {logits.shape[1] - 1}, got values from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.intp)
