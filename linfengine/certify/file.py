"""The certificate file: the claims about each sample, which `verify.py` re-derives.

JSON lines (format "linfengine-certificate-1", described in docs/certificates.md): a header, one line for each sample,
and a seal, the SHA-256 of all bytes above it. For an exact net logits, margin, radius and threshold are integers over
2^fraction_bits, of a gray level for images; else they are float64, the radius in the units of ε.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..backends import Array
from ..checkpoint import read_model
from ..errors import UserError
from ..files import write_file
from ..verify import FORMAT
from .certificate import Certificate
from .proportion import CONFIDENCE, clopper_pearson


def write_certificate(
    path: str | Path,
    certificate: Certificate,
    model: str | Path,
    inputs: Array,
    labels: Array,
    *,
    dataset: str | None = None,
    split: str | None = None,
) -> None:
    """Write what `certify` proved of the net in the file `model`, on these inputs and labels.

    The inputs are those that were certified, as they are stored: uint8 images (n, c, h, w), or float32 (n, ...) for
    points and tables. `dataset` and `split` name where they came from. Raises UserError if the file cannot be written,
    if the model file holds another net than the one certified, or if float32 may overflow; ValueError for inputs of
    another type, and for other inputs or labels than those certified.
    """
    net, _, sha256 = read_model(model)
    if net.digest() != certificate.digest:
        raise UserError(f"{model}: this file does not hold the net that was certified")
    if not np.isfinite(certificate.threshold):
        raise UserError("the net's values may overflow float32, so there is no certificate to write")
    _check_inputs(certificate, inputs, labels)
    lines = [_header(certificate, sha256, dataset, split), *_samples(certificate, inputs, labels)]
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    seal = json.dumps({"sha256": hashlib.sha256(body).hexdigest()}) + "\n"
    write_file(path, body + seal.encode())


def _check_inputs(certificate: Certificate, inputs: Array, labels: Array) -> None:
    """Raises ValueError unless these are the inputs and labels that were certified, as they are stored."""
    n, domain = len(certificate.prediction), certificate.domain
    stored, kind = (np.uint8, "images") if domain.white else (np.float32, "inputs")
    if inputs.dtype != stored or not len(inputs) == len(labels) == n:
        what = f"the {n} {np.dtype(stored)} {kind} that were certified"
        raise ValueError(f"expected {what}, got {len(inputs)} of {inputs.dtype}")
    if hashlib.sha256(np.ascontiguousarray(domain.samples(inputs)).data).hexdigest() != certificate.samples:
        raise ValueError(f"expected the {kind} that were certified, got others")
    if ((certificate.prediction == labels) != certificate.correct).any():
        raise ValueError("expected the labels that were certified, got others")


def _number(certificate: Certificate, value: Any) -> float | int:
    """A logit, margin or threshold for the file: an integer over 2^fraction_bits, or a float64 number."""
    return float(value) if certificate.fraction_bits is None else int(value * (1 << certificate.fraction_bits))


def _header(certificate: Certificate, sha256: str, dataset: str | None, split: str | None) -> dict[str, Any]:
    gray_levels = certificate.gray_levels
    return {
        "format": FORMAT,
        "linfengine": __version__,
        "model": sha256,
        "method": certificate.method,
        "arithmetic": certificate.arithmetic,
        "rests_on": certificate.rests_on,
        "fraction_bits": certificate.fraction_bits,
        "eps": str(certificate.eps),
        "gray_levels": None if gray_levels is None else str(gray_levels),
        "threshold": _number(certificate, certificate.threshold),
        "n": len(certificate.prediction),
        "classes": certificate.logits.shape[1],
        "confidence": CONFIDENCE,
        "clean": _counted(certificate.correct),
        "certified": _counted(certificate.certified),
        "dataset": dataset,
        "split": split,
    }


def _samples(certificate: Certificate, inputs: Array, labels: Array) -> list[dict[str, Any]]:
    radius = certificate.radius if certificate.steps is None else certificate.steps
    return [
        {
            "index": i,
            "pixels": hashlib.sha256(inputs[i].tobytes()).hexdigest(),
            "label": int(labels[i]),
            "prediction": int(certificate.prediction[i]),
            "logits": [_number(certificate, z) for z in certificate.logits[i]],
            "margin": _number(certificate, certificate.margin[i]),
            "radius": radius[i].item(),
            "certified": bool(certificate.certified[i]),
        }
        for i in range(len(inputs))
    ]


def _counted(verdicts: Array) -> dict[str, Any]:
    count, n = int(verdicts.sum()), len(verdicts)
    return {"count": count, "of": n, "bounds": list(clopper_pearson(count, n))}
