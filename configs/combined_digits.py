"""Defences that meet, on scikit-learn's handwritten digits: seconds to a minute each.

    python train.py configs/combined_digits.py                   # KAP, adversarially trained
    python train.py configs/combined_digits.py:kap_parl          # KAP's layers, PARL's penalty
    python train.py configs/combined_digits.py:adp_lpd           # LPD's dropout, ADP's regulariser
    python train.py configs/combined_digits.py:kap               # KAP alone, and on it:
    python train.py configs/combined_digits.py:regroup_on_kap    # REGroup of a KAP network
    python train.py configs/combined_digits.py:rls_kap           # RLS of KAP's layers

Ours, 256 test images, Linf eps = .1 (%, intervals of 6 points), no check flagged:

| variant        | clean | PGD-40 | APGD-50 | worst case |
|----------------|-------|--------|---------|------------|
| default        | 94.14 | 68.75  | 67.97   | 66.80      |
| kap            | 97.27 | 22.66  | 22.27   | 21.48      |
| kap_parl       | 94.92 | 27.34  | 28.12   | 25.78      |
| adp_lpd        | 91.80 | 42.97  | 39.84   | 39.45      |
| regroup_on_kap | 84.77 | 13.67  |  6.64   |  6.25      |
| rls_kap        | 83.20 | 13.28  | 12.11   | 11.72      |

A method's `changes` are added to its network's layers, its `terms` to its loss; a preset brings
those of its paper. No paper has these numbers; `honest` is the evaluation: PGD and APGD through the
deployed rule, averaged over draws where it is random, at eps = .1.
"""

import dataclasses
from typing import Literal

from robust_jax.attacks import APGD, PGD, ThreatModel
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    KAP,
    ActivationNoise,
    Diversity,
    KernelPooling,
    MethodConfig,
    PairwiseAdversarial,
    PriorityDropout,
    RandomLayerSampling,
    REGroup,
)
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.training import Phase

from .recipes import changes
from .recipes import ensembles as recipes

THREAT = ThreatModel("linf", eps=0.1)
NETWORK = CNNConfig(widths=(16, 36, 64), strides=(1, 2, 2))
ENSEMBLE = EnsembleConfig(NETWORK, 3)
KAP_LAYERS = (KernelPooling(), ActivationNoise(0.1))
KAP_QUIET = (KernelPooling(), ActivationNoise(0.1, when=("training",)))


def honest(loss: Literal["cross_entropy", "margin"], eot_samples: int) -> Evaluation:
    """Returns the deployed rule's own adversary."""
    pgd = PGD(THREAT, num_steps=40, step_size=0.01, loss=loss)
    runs = {"pgd": pgd, "apgd": APGD(THREAT, num_steps=50, loss=loss)}
    return Evaluation(
        {name: AttackRun(attack, eot_samples=eot_samples) for name, attack in runs.items()},
        selection=Selection(num_examples=256),
    )


def trained(
    method: MethodConfig,
    *,
    adversarially: bool = False,
    loss: Literal["cross_entropy", "margin"] = "cross_entropy",
    eot_samples: int = 1,
) -> Config:
    """Returns the training of a method, and its honest evaluation."""
    phases = (Phase(epochs=30.0, batch_size=64),)
    config = changes.with_training(recipes.digits(method), phases=phases)
    if adversarially:
        attack = PGD(THREAT, num_steps=5, step_size=0.04)
        config = recipes.adversarially_trained(config, attack)
    return dataclasses.replace(config, evaluation=honest(loss, eot_samples))


VARIANTS = {
    "default": trained(KAP(network=NETWORK), adversarially=True, eot_samples=10),
    "kap_parl": trained(
        KAP(network=ENSEMBLE, terms=(PairwiseAdversarial(num_layers=2),)), eot_samples=10
    ),
    "adp_lpd": trained(PriorityDropout(network=ENSEMBLE, terms=(Diversity(),))),
    "kap": trained(KAP(network=NETWORK), eot_samples=10),
    "regroup_on_kap": changes.with_training(
        trained(REGroup(network=NETWORK, num_layers=3, changes=KAP_QUIET), loss="margin"),
        phases=(),
        init_from="runs/combined_digits-kap",
    ),
    "rls_kap": trained(
        RandomLayerSampling(network=NETWORK, changes=KAP_LAYERS, num_draws=5, frozen=()),
        eot_samples=2,
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "combined_digits", variant)
