"""Checks before a certificate: of the net, the samples, the labels and the arithmetic of the process."""

from __future__ import annotations

import inspect
import math
from copy import deepcopy

import numpy as np

from ..backends import Array, to_device, to_numpy
from ..domain import Domain, domain_of
from ..errors import UserError
from ..exact import ExactNet
from ..layers import CLAIMS, Module, Sequential, evaluation, overridden
from ..rounding import LARGEST, check_arithmetic
from ..tensor import no_grad


def copy_of(model: Module) -> Module:
    """A copy of the net that no other thread can change. Raises UserError if it cannot be copied."""
    try:
        return deepcopy(model)
    except (TypeError, RecursionError) as error:
        raise UserError(f"the model cannot be copied, so what is certified might change meanwhile: {error}") from None


def check_model(model: Module) -> None:
    """Raises UserError unless the model can be certified: p = ∞, all numbers finite, IEEE arithmetic.

    Also refuses a model in which a method was replaced on one object, or a class that inherits a claim it may break.
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
    if not math.isinf(p := model.p):
        raise UserError(
            f"the model is at p = {p:g}: only the p = ∞ net is 1-Lipschitz in ℓ∞, so only that can be certified "
            "(finish its training, or set model.p = math.inf to certify the net at ∞)"
        )
    check_arithmetic()
    for name, array in model.state().items():
        if not np.isfinite(to_numpy(array)).all():
            raise UserError(f"the model cannot be certified: {name} holds values that are not finite")
    if isinstance(model, ExactNet):
        model.check()


def claims(model: Module, domain: Domain, magnitude: float | Array) -> tuple[float, float]:
    """(L, E) as the net states them: a logit changes by at most L·ε in a ball of radius ε, and its error is at most E.

    E holds for inputs of at most `magnitude` (`Domain.reach`), and is infinite if float32 may overflow. Raises
    UserError unless L is finite and both are at least 0.
    """
    scale = domain.scales
    arrays = np.ndim(scale) or np.ndim(magnitude)
    try:
        if arrays and isinstance(model, Sequential) and all(_inherits(model, claim) for claim in CLAIMS[:2]):
            lipschitz, error, size = Sequential.within(model, scale, np.asarray(magnitude))
        else:
            lipschitz = float(model.lipschitz()) * float(np.max(scale))
            error, size = model.rounding(float(np.max(magnitude)))
    except NotImplementedError as missing:
        raise UserError(f"the model cannot be certified: {missing}") from None
    if not (0 <= lipschitz < math.inf and error >= 0 and size >= 0):
        raise UserError(
            f"the model cannot be certified: it states a Lipschitz constant of {lipschitz}, a rounding of {error} and "
            f"a size of {size}, and all have to be numbers of at least 0, the first finite"
        )
    return lipschitz, float(error) if size <= LARGEST else math.inf


def _inherits(model: Sequential, claim: str) -> bool:
    return getattr(type(model), claim) is getattr(Sequential, claim)


def check_samples(model: Module, inputs: Array, labels: Array) -> tuple[Array, Array]:
    """The samples as the model's domain takes them, and int64 labels (n,).

    Raises UserError if inputs or labels have another shape or type, or inputs lie outside the domain.
    """
    domain = domain_of(model)
    inputs, labels = (np.asarray(to_numpy(array)) for array in (inputs, labels))
    axes = 4 if domain.white or domain.shape is None else 1 + len(domain.shape)
    if inputs.ndim != axes or labels.shape != inputs.shape[:1]:
        raise UserError(f"expected {domain.axes} and labels (n,), got shapes {inputs.shape} and {labels.shape}")
    if len(inputs) == 0:
        raise UserError("there are no samples to certify")
    if labels.dtype.kind not in "iu":
        raise UserError(f"expected integer labels, got {labels.dtype}")
    if labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"expected labels that are numbers of classes, got {labels.max()}")
    return domain.samples(inputs), labels.astype(np.int64)


def check_labels(logits: Array, labels: Array) -> None:
    """Raises UserError unless there are two classes or more and each label is one of them."""
    if logits.ndim == 2 and logits.shape[1] < 2:
        raise UserError("the model has one class only, so that there is nothing to certify")
    if logits.ndim != 2 or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(
            f"labels from {labels.min()} to {labels.max()} do not fit the model, whose logits have shape {logits.shape}"
        )


def check_batch_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size: expected a whole number from 1 on, got {batch_size!r}")


@np.errstate(all="ignore")
def predict(model: Module, x: Array, batch_size: int = 512) -> Array:
    """Logits (n, classes) of the net in evaluation at p = ∞; x (n, ...) as the net takes it. The net is not changed.

    Raises UserError for an x that the net does not take, for an overflow before a distance layer, and for a process
    that does not follow IEEE 754; ValueError for an empty x or a batch_size below 1.
    """
    check_batch_size(batch_size)
    check_arithmetic()
    domain: Domain | None = getattr(model, "domain", None)
    if len(x) == 0:
        raise ValueError("predict: expected at least one sample, got none")
    try:
        if domain and x.dtype.kind == "f":
            domain.check_range(x)
        with evaluation(), no_grad():
            parts = [to_device(x[start : start + batch_size], model.device) for start in range(0, len(x), batch_size)]
            logits = np.concatenate([model(part).numpy() for part in parts])
    except ValueError as error:  # numbers that are not finite, or an x that does not fit
        kind = "inputs" if domain and not domain.white else "images"
        raise UserError(f"the model cannot be evaluated on these {kind}: {str(error).rstrip('.')}") from None
    return np.asarray(logits)


def margins(logits: Array, labels: Array) -> Array:
    """z_y − max_{j≠y} z_j (n,): differences of float32 logits, correctly rounded to float64."""
    z = logits.astype(np.float64)
    rows = np.arange(len(z))
    true = z[rows, labels]
    z[rows, labels] = -np.inf
    return np.asarray(true - z.max(axis=1))
