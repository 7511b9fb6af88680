"""Certificates: labels that no small perturbation changes, by votes or by bounds."""

from robust_jax.certify.ascent import SlopeAscent
from robust_jax.certify.base import (
    Certificate,
    average_certified_radius,
    average_certified_radius_interval,
    certified_accuracy,
    certified_accuracy_interval,
)
from robust_jax.certify.crown import TOLERANCE, certified, crown_margins, smallest_margin
from robust_jax.certify.intervals import Bounds, interval_bounds, interval_margins
from robust_jax.certify.margins import Margins
from robust_jax.certify.sequences import VoteSequence, looks, lower_confidence_bound
from robust_jax.certify.smoothing import Smoothing

__all__ = [
    "TOLERANCE",
    "Bounds",
    "Certificate",
    "Margins",
    "SlopeAscent",
    "Smoothing",
    "VoteSequence",
    "average_certified_radius",
    "average_certified_radius_interval",
    "certified",
    "certified_accuracy",
    "certified_accuracy_interval",
    "crown_margins",
    "interval_bounds",
    "interval_margins",
    "looks",
    "lower_confidence_bound",
    "smallest_margin",
]
