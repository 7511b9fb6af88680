"""Recipes of the ensembles and randomised networks that the papers compare with.

Where two papers train a method, each row has the recipe of its paper (recipes/ensembles.py,
recipes/rls.py); here are those of the methods' own code:

* GAL, DVERGE and its plain baseline: DVERGE's repository. ResNet-20, images normalised inside,
  batch size 128, 200 epochs, a tenth of the rate after 100 and 150, weight decay 1e-4. DVERGE and
  the baseline: SGD .1; GAL: Adam 1e-3 with 1e-7 in its denominator;
* TRS: its authors' code. Adam 1e-3, weight decay 1e-4, batch size 128, 120 epochs, a tenth every
  40. Its eps are those of MNIST; on CIFAR-10 they grow from .01 to .03, a choice of this project;
* RSE: the authors' later code (BayesianDefense). VGG-16, no normalisation, SGD .01, weight decay
  5e-4, batch size 128, 80 + 60 + 40 + 20 epochs, a tenth of the rate at each. GradDiv likewise;
* Gaussian training: Cohen et al.'s code. SGD .1, weight decay 1e-4, batch size 256, 90 epochs, a
  tenth every 30, validated with the noise of training; ResNet-18 for its ResNet-110.

The best checkpoint is chosen on 1,000 validation examples carved from the training images.
"""

import dataclasses

from robust_jax.data import TFDS, Augmentation, DataConfig
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    AdaptiveDiversityPromoting,
    MethodConfig,
    RandomSelfEnsemble,
    StochasticActivationPruning,
)
from robust_jax.models import EnsembleConfig, Normalization
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.optimizers import MultiStep, OptimizerConfig

from . import rls

NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""CIFAR-10's common numbers, in the code of DVERGE and of Cohen et al."""

SGD = OptimizerConfig(
    learning_rate=0.1, weight_decay=1e-4, schedule=MultiStep(epochs=(100.0, 150.0))
)
ADAM = OptimizerConfig(
    name="adam",
    learning_rate=1e-3,
    weight_decay=1e-4,
    epsilon=1e-7,
    schedule=MultiStep(epochs=(100.0, 150.0)),
)
TRS_OPTIMIZER = dataclasses.replace(ADAM, epsilon=1e-8, schedule=MultiStep(epochs=(40.0, 80.0)))
RSE_OPTIMIZER = OptimizerConfig(
    learning_rate=0.01, weight_decay=5e-4, schedule=MultiStep(epochs=(80.0, 140.0, 180.0))
)
GAUSSIAN_OPTIMIZER = OptimizerConfig(
    learning_rate=0.1, weight_decay=1e-4, schedule=MultiStep(epochs=(30.0, 60.0))
)


def cifar10(
    method: MethodConfig,
    optimizer: OptimizerConfig,
    evaluation: Evaluation,
    *,
    num_epochs: float = 200.0,
    batch_size: int = 128,
    init_from: str | None = None,
) -> Config:
    """Returns a training on CIFAR-10 with crops and flips."""
    return Config(
        name="cifar10",
        data=DataConfig(
            TFDS("cifar10"),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, flip=True),
        ),
        method=method,
        optimizer=optimizer,
        training=TrainingConfig(
            phases=(Phase(epochs=num_epochs, batch_size=batch_size),), init_from=init_from
        ),
        evaluation=evaluation,
    )


def compared_with_rls(dataset: str) -> dict[str, Config]:
    """Returns the rows of the RLS paper's tables 3 and 5 beside its own, by variant.

    The networks are ResNet-50, trained and attacked as the paper's own; ADP has three, the number
    of its authors. The noise of RSE comes after the normalisation to [-1, 1]. Attacks on RSE and
    pruning see one fresh pass at every step, as RLS's see one draw; predictions average ten.
    """
    plain = rls.baseline(dataset, "resnet50")
    network, normalization = plain.method.network, plain.method.normalization
    one_draw = rls.evaluation(dataset, "resnet50", view="one_draw")
    return {
        "adp": dataclasses.replace(
            plain,
            method=AdaptiveDiversityPromoting(
                network=EnsembleConfig(network, 3), normalization=normalization
            ),
        ),
        "rse": dataclasses.replace(
            plain,
            method=RandomSelfEnsemble(network=network, normalization=normalization),
            evaluation=one_draw,
        ),
        "sap": dataclasses.replace(
            plain,
            method=StochasticActivationPruning(
                network=network, normalization=normalization, num_draws=10
            ),
            evaluation=one_draw,
        ),
    }
