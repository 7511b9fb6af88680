"""Certificates: labels that no small perturbation changes, by votes or by bounds."""

from robust_jax.certify.base import Certificate, average_certified_radius, certified_accuracy
from robust_jax.certify.crown import TOLERANCE, certified, crown_margins, smallest_margin
from robust_jax.certify.intervals import Bounds, interval_bounds
from robust_jax.certify.margins import Margins
from robust_jax.certify.smoothing import Smoothing, lower_confidence_bound

__all__ = [
    "TOLERANCE",
    "Bounds",
    "Certificate",
    "Margins",
    "Smoothing",
    "average_certified_radius",
    "certified",
    "certified_accuracy",
    "crown_margins",
    "interval_bounds",
    "lower_confidence_bound",
    "smallest_margin",
]
