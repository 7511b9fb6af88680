"""A run so small that a test can train it: real digits, one convolution."""

import dataclasses

from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.config import Config, Phase, TrainingConfig
from robust_jax.data import Augmentation, DataConfig, Digits
from robust_jax.methods import KAP, MethodConfig, Standard
from robust_jax.models import CNNConfig
from robust_jax.optimizers import OptimizerConfig
from robust_jax.protocol import AttackRun, Evaluation
from robust_jax.sharding import RuntimeConfig

THREAT = ThreatModel("linf", 0.1)
NETWORK = CNNConfig(widths=(16,), strides=(2,))


def config(method: MethodConfig | None = None, **training: object) -> Config:
    """Returns a configuration of 22 steps; `training` replaces fields of that section.

    Its evaluation probes nothing: tests of probes and of the report ask for them.
    """
    section = TrainingConfig(phases=(Phase(epochs=2.0, batch_size=104),), ema_decay=0.9)
    return Config(
        name="small",
        data=DataConfig(
            Digits(), validation_size=200, augmentation=Augmentation(crop_padding=1, flip=True)
        ),
        method=method or Standard(network=NETWORK),
        optimizer=OptimizerConfig(weight_decay=1e-4),
        training=dataclasses.replace(section, **training),
        evaluation=Evaluation(
            attacks={
                "fgsm": AttackRun(FGSM(THREAT)),
                "pgd": AttackRun(PGD(THREAT, num_steps=3)),
            },
            num_examples=90,
            batch_size=40,
            sanity=False,
        ),
        runtime=RuntimeConfig(num_devices=1, log_every=5, progress=False),
    )


def noisy() -> KAP:
    """Returns a random method."""
    return KAP(network=NETWORK, sigma=0.2)
