"""The check that holds certificates against what attacks did to the same images."""

from collections.abc import Mapping

import numpy as np

from robust_jax.certify import Certificate, Margins, Smoothing
from robust_jax.evaluation.records import Records
from robust_jax.evaluation.sanity.findings import Finding

CHECK = "certified images stand"

ROUNDING = 1e-6
"""Relative: distances are measured in float32."""

SHOWN = 5
"""Examples that a flag names."""


def check_certificates(
    certificates: Mapping[str, tuple[Certificate, np.ndarray]],
    records: Records,
    certifiers: Mapping[str, Smoothing | Margins],
    judge: str | None,
) -> list[Finding]:
    """Returns, for each certifier, whether an image certified in a ball is wrong inside it.

    Every record is asked, the clean ones too, by the distance that was measured.

    Args:
        certificates: by name, with the images' labels, of the first examples of the records.
        records: of every attack.
        certifiers: by name; certificates of other checkpoints are not asked.
        judge: by whose word, `Evaluation.deployed`: nothing is said where none is.
    """
    findings = []
    for name, certifier in certifiers.items():
        if name not in certificates or judge is None:
            continue
        certificate, labels = certificates[name]
        norm = certifier.norm if isinstance(certifier, Margins) else "l2"
        rows = list(next(iter(records.values())))[: len(labels)]
        radius = {
            row: found
            for row, found, own in zip(
                rows, certificate.radius, certificate.label == labels, strict=True
            )
            if own
        }
        broken = [
            f"{row} by {attack}"
            for row, reach in radius.items()
            for attack, found in records.items()
            if not found[row].decisions[judge].correct
            and getattr(found[row], norm) <= reach * (1 + ROUNDING)
        ]
        findings.append(_finding(name, certifier, norm, len(radius), broken))
    return findings


def _finding(
    name: str, certifier: Smoothing | Margins, norm: str, num_certified: int, broken: list[str]
) -> Finding:
    check = f"{CHECK} ({name})"
    if not num_certified:
        return Finding(check, "not run", "No image is certified as its class.")
    if not broken:
        text = f"No record breaks one of {num_certified} certified images inside its {norm} ball."
        return Finding(check, "passed", text)
    more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    text = (
        f"{len(broken)} records break images of {num_certified} certified, inside the {norm} ball "
        f"of the certificate: example {', '.join(broken[:SHOWN])}{more}."
    )
    if isinstance(certifier, Smoothing):
        step = (
            "Certified is the majority of noisy copies, attacked were single decisions: attack and "
            "deploy that majority, or do not count the certificate for this model."
        )
    elif certifier.of == "mean_logit":
        step = "Certified is the members' mean logit, attacked was the vote: take of='vote'."
    else:
        step = (
            "One of the two is wrong: look for a model that is random, of low precision or another "
            "in its deployed view, and do not count the certificate."
        )
    return Finding(check, "flag", text, step)
