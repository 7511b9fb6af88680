"""Adversarial training on CIFAR-10 by the recipes of its authors' code.

* Fast-AT: Wong, Rice and Kolter, "Fast is better than free: revisiting adversarial training", ICLR
  2020, and its code (CIFAR10/train_fgsm.py). PreAct-ResNet-18, normalised inside, eps 8/255; one
  step of 10/255 = 1.25 eps from a uniform start; SGD, the rate 0 to .2 to 0 in straight lines over
  the run, weight decay 5e-4, batch size 128, 30 epochs (15, the code's later default, with the
  same rate). Their numbers: clean 86.06, PGD-50 with 10 restarts 46.06. Stopped at once by
  catastrophic overfitting, as their option --early-stop;
* Free-AT: Shafahi et al., "Adversarial training for free!", NeurIPS 2019, with the network and
  schedule of Wong et al.'s code (CIFAR10/train_free.py): PreAct-ResNet-18, eps 8/255, steps of
  eps, 8 replays, the rate 0 to .04 to 0, weight decay 5e-4, batch size 128, 11 passes over the
  images, which are 88 epochs of steps. Wong et al. report clean 85.96, PGD-50 46.33 (of a WRN);
* TRADES: Zhang et al., ICML 2019, and its code (train_trades_cifar10.py). SGD .1, weight decay
  2e-4, batch size 128, 76 epochs, a tenth of the rate from epoch 75 of 1 .. 76 on, images as they
  are; ResNet-18 in place of its WRN-34-10 (the code names both);
* MART: Wang et al., ICLR 2020, and its code (train_resnet.py). ResNet-18, SGD .01, weight decay
  3.5e-3, batch size 128, 120 epochs, a tenth of the rate from epochs 75, 90 and 100 on;
* AWP: Wu, Xia and Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS
  2020, and its code: Rice et al.'s recipe (PreAct-ResNet-18, PGD-10, SGD .1, weight decay 5e-4,
  200 epochs, a tenth after 100 and 150), gamma .01 from the first epoch. (With TRADES the code has
  .005 from epoch 10 on, and one attack a step where here are two:
  `--training.weight-perturbation 0.005` on the variant `trades`.)

Deviations: float32 in place of Fast-AT's half precision; the best checkpoint is chosen by accuracy
under PGD-10 on 1,000 validation examples carved from the training images, after every epoch (the
authors keep the last, or look at test images).
"""

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import MART, TRADES, MethodConfig, Standard
from robust_jax.models import Normalization, PreActResNetConfig, ResNetConfig
from robust_jax.training import AdversarialTraining, FreeAdversarialTraining, OverfittingMonitor
from robust_jax.training.optimizers import MultiStep, OptimizerConfig, PiecewiseLinear

from . import baselines, changes, kap

NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
"""CIFAR-10's numbers in the code of Rice et al. and of Wong et al."""

THREAT = ThreatModel("linf", eps=8 / 255)
VALIDATION = PGD(THREAT, num_steps=10, step_size=2 / 255, keep="last")


def early_stopped(
    method: MethodConfig,
    optimizer: OptimizerConfig,
    evaluation: Evaluation,
    *,
    num_epochs: float,
) -> Config:
    """Returns a training on CIFAR-10 whose best checkpoint is chosen by PGD-10."""
    config = baselines.cifar10(method, optimizer, evaluation, num_epochs=num_epochs)
    return kap.stopped_early(config, VALIDATION)


def cyclic(rate: float, num_epochs: float) -> OptimizerConfig:
    """Returns SGD whose rate goes from 0 to `rate` and back in straight lines."""
    return OptimizerConfig(
        learning_rate=rate,
        weight_decay=5e-4,
        schedule=PiecewiseLinear(epochs=(0.0, num_epochs / 2, num_epochs), factors=(0.0, 1.0, 0.0)),
    )


def fast(evaluation: Evaluation, *, num_epochs: float = 30.0) -> Config:
    """Returns Fast-AT."""
    config = early_stopped(
        Standard(network=PreActResNetConfig(), normalization=NORMALIZATION),
        cyclic(0.2, num_epochs),
        evaluation,
        num_epochs=num_epochs,
    )
    attack = PGD(THREAT, num_steps=1, step_size=10 / 255, keep="last")
    return changes.with_training(
        config,
        adversarial=AdversarialTraining(attack),
        overfitting=OverfittingMonitor(action="stop"),
    )


def free(evaluation: Evaluation, *, num_replays: int = 8, num_passes: float = 11.0) -> Config:
    """Returns Free-AT."""
    num_epochs = num_passes * num_replays
    config = early_stopped(
        Standard(network=PreActResNetConfig(), normalization=NORMALIZATION),
        cyclic(0.04, num_epochs),
        evaluation,
        num_epochs=num_epochs,
    )
    return changes.with_training(
        config,
        adversarial=FreeAdversarialTraining(THREAT, num_replays),
        validate_every=float(num_replays),
    )


def trades(evaluation: Evaluation) -> Config:
    """Returns TRADES, beta = 6."""
    optimizer = OptimizerConfig(
        learning_rate=0.1, weight_decay=2e-4, schedule=MultiStep(epochs=(74.0,))
    )
    return early_stopped(TRADES(network=ResNetConfig()), optimizer, evaluation, num_epochs=76.0)


def mart(evaluation: Evaluation) -> Config:
    """Returns MART, lambda = 5."""
    optimizer = OptimizerConfig(
        learning_rate=0.01, weight_decay=3.5e-3, schedule=MultiStep(epochs=(74.0, 89.0, 99.0))
    )
    return early_stopped(MART(network=ResNetConfig()), optimizer, evaluation, num_epochs=120.0)
