"""The certificate file: what was claimed of every sample, in a form that `verify.py` re-derives.

JSON lines (format "linfengine-certificate-1", described in docs/certificates.md): a header, a line a sample, and a
seal, the SHA-256 of all bytes above it.  For an exact net logits, margin, radius and threshold are integers over
2^fraction_bits gray levels; else they are float64, the radius in pixel units.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ._version import __version__
from .backends import Array
from .certify import CONFIDENCE, Certificate, clopper_pearson
from .checkpoint import read_model
from .data import to_pixels
from .errors import UserError
from .files import write_file
from .verify import FORMAT


def write_certificate(
    path: str | Path,
    certificate: Certificate,
    model: str | Path,
    images: Array,
    labels: Array,
    *,
    dataset: str | None = None,
    split: str | None = None,
) -> None:
    """Write what `certify` proved of the net in the file `model`, on uint8 images (n, c, h, w) with their labels.

    `dataset` and `split` say where they came from.  Raises UserError when the place cannot be written to, when the file
    holds another net than the one certified, or where float32 may overflow; ValueError for images that are not uint8,
    or other numbers of them or other labels than certified.
    """
    net, _, sha256 = read_model(model)
    if net.digest() != certificate.digest:
        raise UserError(f"{model}: this file does not hold the net that was certified")
    if not np.isfinite(certificate.threshold):
        raise UserError("the net's values may overflow float32, so there is no certificate to write")
    n = len(certificate.prediction)
    if images.dtype != np.uint8 or not len(images) == len(labels) == n:
        raise ValueError(f"expected the {n} uint8 images that were certified, got {len(images)} of {images.dtype}")
    taken = np.ascontiguousarray(images if certificate.steps is not None else to_pixels(images))
    if hashlib.sha256(taken.data).hexdigest() != certificate.samples:
        raise ValueError("expected the images that were certified, got others")
    if ((certificate.prediction == labels) != certificate.correct).any():
        raise ValueError("expected the labels that were certified, got others")
    exact = certificate.steps is not None
    grid = 1 << (certificate.fraction_bits or 0)

    def number(value: Any) -> float | int:
        return int(value * grid) if exact else float(value)

    lines: list[dict[str, Any]] = [
        {
            "format": FORMAT,
            "linfengine": __version__,
            "model": sha256,
            "method": certificate.method,
            "arithmetic": certificate.arithmetic,
            "rests_on": certificate.rests_on,
            "fraction_bits": certificate.fraction_bits,
            "eps": str(certificate.eps),
            "gray_levels": str(certificate.gray_levels),
            "threshold": number(certificate.threshold),
            "n": n,
            "classes": certificate.logits.shape[1],
            "confidence": CONFIDENCE,
            "clean": _counted(certificate.correct),
            "certified": _counted(certificate.certified),
            "dataset": dataset,
            "split": split,
        }
    ]
    radius = certificate.radius if certificate.steps is None else certificate.steps
    lines += [
        {
            "index": i,
            "pixels": hashlib.sha256(images[i].tobytes()).hexdigest(),
            "label": int(labels[i]),
            "prediction": int(certificate.prediction[i]),
            "logits": [number(z) for z in certificate.logits[i]],
            "margin": number(certificate.margin[i]),
            "radius": radius[i].item(),
            "certified": bool(certificate.certified[i]),
        }
        for i in range(n)
    ]
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    seal = json.dumps({"sha256": hashlib.sha256(body).hexdigest()}) + "\n"
    write_file(path, body + seal.encode())


def _counted(verdicts: Array) -> dict[str, Any]:
    count, n = int(verdicts.sum()), len(verdicts)
    return {"count": count, "of": n, "bounds": list(clopper_pearson(count, n))}
