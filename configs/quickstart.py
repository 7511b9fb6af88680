"""A small KAP network, adversarially trained on scikit-learn's handwritten digits.

    python train.py

Ours: see README.md, which shows the table that this prints.
"""

from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.data import Augmentation, DataConfig, Digits
from robust_jax.evaluation.protocol import AttackRun, Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import KAP
from robust_jax.models import CNNConfig
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig, PiecewiseLinear

VARIANTS = ("default",)


def get_config(variant: str = "default") -> Config:
    """Returns the configuration."""
    del variant
    threat = ThreatModel("linf", eps=0.1)
    pgd5 = PGD(threat, num_steps=5, step_size=0.04)
    return Config(
        name="quickstart",
        data=DataConfig(Digits(), validation_size=200, augmentation=Augmentation(crop_padding=1)),
        method=KAP(network=CNNConfig(widths=(36, 64, 100), strides=(1, 2, 2)), sigma=0.1),
        optimizer=OptimizerConfig(
            learning_rate=0.1,
            weight_decay=5e-4,
            schedule=PiecewiseLinear(epochs=(0.0, 6.0, 30.0), factors=(0.0, 1.0, 0.0)),
        ),
        training=TrainingConfig(
            phases=(Phase(epochs=30.0, batch_size=64),),
            adversarial=AdversarialTraining(pgd5),
            validate_every=5.0,
            best_by="robust_accuracy",
            validation_attack=PGD(threat, num_steps=10, step_size=0.025),
        ),
        evaluation=Evaluation(
            attacks={
                "fgsm": AttackRun(FGSM(threat), view="noise_off"),
                "pgd": AttackRun(PGD(threat, num_steps=20, step_size=0.02), view="noise_off"),
                "pgd_eot": AttackRun(PGD(threat, num_steps=20, step_size=0.02), eot_samples=4),
            }
        ),
    )
