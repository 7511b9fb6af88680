"""Attacks: functions of plain JAX with one signature, `attack(view, images, labels, key=key)`."""

from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.auto import AutoAttack
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
from robust_jax.attacks.deepfool import DeepFool, TrustRegion
from robust_jax.attacks.fab import FAB, FABT
from robust_jax.attacks.gradient import BIM, FGSM, MIM, PGD
from robust_jax.attacks.minimum_norm import EAD, CarliniWagner, MinimumNormAttack
from robust_jax.attacks.square import Square
from robust_jax.attacks.views import eot

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "EAD",
    "FAB",
    "FABT",
    "FGSM",
    "MIM",
    "PGD",
    "Attack",
    "AutoAttack",
    "BoundedAttack",
    "CarliniWagner",
    "DeepFool",
    "MinimumNormAttack",
    "Square",
    "ThreatModel",
    "TrustRegion",
    "View",
    "as_view",
    "bind",
    "check_images",
    "check_logits",
    "eot",
]
