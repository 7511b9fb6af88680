"""Attacks: functions of plain JAX with one signature, `attack(view, images, labels, key=key)`."""

from robust_jax.attacks.base import (
    Attack,
    BoundedAttack,
    ThreatModel,
    View,
    as_view,
    bind,
    check_images,
    check_logits,
)
from robust_jax.attacks.gradient import BIM, FGSM, MIM, PGD
from robust_jax.attacks.views import eot

__all__ = [
    "BIM",
    "FGSM",
    "MIM",
    "PGD",
    "Attack",
    "BoundedAttack",
    "ThreatModel",
    "View",
    "as_view",
    "bind",
    "check_images",
    "check_logits",
    "eot",
]
