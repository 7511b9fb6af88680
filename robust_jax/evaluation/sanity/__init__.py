"""Sanity checks: does an evaluation show the model's robustness, or the attack's weakness?"""

from robust_jax.evaluation.sanity.findings import Finding, outranks
from robust_jax.evaluation.sanity.from_certificates import check_certificates
from robust_jax.evaluation.sanity.from_records import check_records
from robust_jax.evaluation.sanity.probed import Probed
from robust_jax.evaluation.sanity.probes import probe, probe_split

__all__ = [
    "Finding",
    "Probed",
    "check_certificates",
    "check_records",
    "outranks",
    "probe",
    "probe_split",
]
