"""Attacks: functions of plain JAX with one signature, `attack(view, images, labels, key=key)`."""

from robust_jax.attacks.adaptive import MORA, Averaged, Rescaled, in_float64
from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.auto import AutoAttack
from robust_jax.attacks.base import Attack, BoundedAttack
from robust_jax.attacks.black_box import Boundary
from robust_jax.attacks.checks import check_images, check_logits
from robust_jax.attacks.dataset import over_dataset
from robust_jax.attacks.deepfool import DeepFool, TrustRegion
from robust_jax.attacks.eps_search import SmallestEps
from robust_jax.attacks.fab import FAB, FABT
from robust_jax.attacks.gradient import BIM, FGSM, MIM, PGD
from robust_jax.attacks.hop_skip_jump import HopSkipJump
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.penalty import EAD, CarliniWagner
from robust_jax.attacks.saliency import JSMA
from robust_jax.attacks.scores import NES, SPSA
from robust_jax.attacks.spatial import Spatial
from robust_jax.attacks.square import Square
from robust_jax.attacks.threat import ThreatModel
from robust_jax.attacks.trajectories import Trajectory, trajectory
from robust_jax.attacks.transfer import MDI2FGSM
from robust_jax.attacks.views import (
    View,
    as_view,
    bind,
    eot,
    frozen,
    nes,
    standing_with_twice_the_draws,
    straight_through,
)

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "EAD",
    "FAB",
    "FABT",
    "FGSM",
    "JSMA",
    "MDI2FGSM",
    "MIM",
    "MORA",
    "NES",
    "PGD",
    "SPSA",
    "Attack",
    "AutoAttack",
    "Averaged",
    "Boundary",
    "BoundedAttack",
    "CarliniWagner",
    "DeepFool",
    "HopSkipJump",
    "MinimumNormAttack",
    "Rescaled",
    "SmallestEps",
    "Spatial",
    "Square",
    "ThreatModel",
    "Trajectory",
    "TrustRegion",
    "View",
    "as_view",
    "bind",
    "check_images",
    "check_logits",
    "eot",
    "frozen",
    "in_float64",
    "nes",
    "over_dataset",
    "standing_with_twice_the_draws",
    "straight_through",
    "trajectory",
]
