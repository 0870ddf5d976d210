"""Certificates: proofs about a net on given inputs, and the certificate file."""

from .certificate import METHODS, Certificate, certify
from .checks import check_model, check_samples, margins, predict
from .file import write_certificate
from .proportion import CONFIDENCE, clopper_pearson

__all__ = [
    "CONFIDENCE",
    "METHODS",
    "Certificate",
    "certify",
    "check_model",
    "check_samples",
    "clopper_pearson",
    "margins",
    "predict",
    "write_certificate",
]
