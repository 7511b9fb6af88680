"""Networks, data and schedules of the papers that train ensembles: PARL's and LPD's.

Choices where a paper does not settle it:

* PARL's paper says Adam from 1e-3 with an "adaptive learning rate", random shifts, flips and crops.
  Everything else is the Keras recipe of ADP, whose code it used: ResNet-20 v1, 200 epochs, batch
  size 64, a tenth of the rate after 100 and 150, L2 of 1e-4 on kernels, shifts by a tenth, the mean
  of each pixel subtracted. That recipe has no crops: they are those of the authors' later code,
  padded by 4 of the nearest pixels;
* LPD's and PDD's numbers are those of PDD's code: the mean of the members' cross-entropies, of the
  plain ensemble too (`plain`); SGD .02 with a cosine to 1e-4, weight decay 5e-4, batch size 64, 150
  epochs (100 on TinyImageNet), ResNet-18 with the CIFAR stem also at 64 x 64, no normalisation.
  That code keeps the checkpoint of best TEST accuracy; here it is validation accuracy, on 1,000
  (2,000) examples carved from the training images.
"""

import dataclasses

from robust_jax.attacks import FGSM, PGD, BoundedAttack, ThreatModel
from robust_jax.data import TFDS, Augmentation, DataConfig, Digits, Folder
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection
from robust_jax.experiment.config import Config
from robust_jax.methods import MethodConfig, ParameterPARL, Standard
from robust_jax.models import (
    CNNConfig,
    EnsembleConfig,
    NetworkConfig,
    Normalization,
    ResNetConfig,
    imagenet_vgg,
)
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import Cosine, MultiStep, OptimizerConfig

from . import changes

KERAS_RESNET20 = ResNetConfig(depth=20, conv_bias=True, shortcut_norm=False, framework="keras")
"""ResNet-20 v1 of Keras' examples: biases everywhere, no BatchNorm after projections."""

PUBLIC_3X_RESNET20 = EnsembleConfig(
    ResNetConfig(depth=20, conv_bias=True, stem_norm=False, shortcut_norm=False), num_members=3
)
"""The public plain ensemble of PARL's authors (robust_jax.interop.torch, parl_3x_resnet20)."""

PUBLIC_NORMALIZATION = Normalization(mean=(0.4942, 0.4851, 0.4504), std=(0.2467, 0.2429, 0.2616))


def parl(dataset: str, method: MethodConfig, evaluation: Evaluation) -> Config:
    """Returns the training of PARL's paper on "cifar10" or "cifar100"."""
    return Config(
        name=dataset,
        data=DataConfig(
            TFDS(dataset),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, crop_mode="edge", shift=0.1, flip=True),
        ),
        method=dataclasses.replace(method, normalization=Normalization(statistics="train_pixel")),
        optimizer=OptimizerConfig(
            name="adam",
            learning_rate=1e-3,
            weight_decay=2e-4,  # Keras' l2(1e-4)
            decay="kernels",
            schedule=MultiStep(epochs=(100.0, 150.0)),
        ),
        training=TrainingConfig(phases=(Phase(epochs=200.0, batch_size=64),)),
        evaluation=evaluation,
    )


def parl_parameters(dataset: str, num_layers: int, evaluation: Evaluation) -> Config:
    """Returns the training of PARL's later code: 50 epochs, on the network of its checkpoints.

    That code normalises training and test images by different statistics; these are the training
    images' in both.
    """
    statistics = {
        "cifar10": Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        "cifar100": Normalization(mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    }
    return Config(
        name=dataset,
        data=DataConfig(
            TFDS(dataset),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, crop_mode="edge", flip=True),
        ),
        method=ParameterPARL(
            network=PUBLIC_3X_RESNET20,
            normalization=statistics[dataset],
            num_layers=num_layers,
        ),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=1e-3, schedule=MultiStep(epochs=(25.0, 40.0))
        ),
        training=TrainingConfig(phases=(Phase(epochs=50.0, batch_size=64),)),
        evaluation=evaluation,
    )


def keras_ensemble(num_members: int = 3) -> EnsembleConfig:
    """Returns PARL's ensemble."""
    return EnsembleConfig(KERAS_RESNET20, num_members)


def lpd(dataset: str, method: MethodConfig, evaluation: Evaluation) -> Config:
    """Returns the training of LPD's paper on "cifar10", "cifar100" or "tiny_imagenet"."""
    tiny = dataset == "tiny_imagenet"
    return Config(
        name=dataset,
        data=DataConfig(
            Folder("data/tiny-imagenet-200") if tiny else TFDS(dataset),
            validation_size=2000 if tiny else 1000,
            image_size=64 if tiny else None,
            augmentation=Augmentation(crop_padding=4, flip=True),
        ),
        method=method,
        optimizer=OptimizerConfig(
            learning_rate=0.02,
            weight_decay=5e-4,
            schedule=Cosine(final=1e-4 / 0.02),
        ),
        training=TrainingConfig(phases=(Phase(epochs=100.0 if tiny else 150.0, batch_size=64),)),
        evaluation=evaluation,
    )


def plain(network: NetworkConfig) -> Standard:
    """Returns LPD's baseline: at the rate of its other rows, so on the mean over members."""
    return Standard(network=network, cross_entropy="mean")


def resnet18_ensemble(
    num_members: int = 3, *, depth: int = 18, width_multiplier: float = 1.0
) -> EnsembleConfig:
    """Returns LPD's ensemble; PDD's code leaves its networks as PyTorch constructs them."""
    member = ResNetConfig(depth=depth, width_multiplier=width_multiplier, framework="torch_default")
    return EnsembleConfig(member, num_members)


def vgg16_ensemble() -> EnsembleConfig:
    """Returns the surrogate of LPD's black-box attack of type I, three VGG-16 with BatchNorm."""
    return EnsembleConfig(imagenet_vgg(16, norm=True), 3)


def finetuned(method: MethodConfig, *, num_steps: int = 300) -> Config:
    """Returns a short training that starts from the public ensemble: `--training.init-from DIR`.

    DIR is what `python -m robust_jax.interop.torch FILE --architecture parl_3x_resnet20 --out DIR`
    wrote. SGD at .002 without schedule, batch size 32; the first 1,000 test images are evaluated.
    """
    fgsm = FGSM(ThreatModel("linf", eps=0.01))
    return Config(
        name="finetuned",
        data=DataConfig(
            TFDS("cifar10"),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, crop_mode="edge", flip=True),
        ),
        method=dataclasses.replace(
            method, network=PUBLIC_3X_RESNET20, normalization=PUBLIC_NORMALIZATION
        ),
        optimizer=OptimizerConfig(learning_rate=0.002),
        training=TrainingConfig(phases=(Phase(epochs=1.0, batch_size=32),), max_steps=num_steps),
        evaluation=Evaluation(
            {"fgsm": AttackRun(fgsm)}, selection=Selection(num_examples=1000), batch_size=200
        ),
    )


def digits(method: MethodConfig) -> Config:
    """Returns a training of seconds on scikit-learn's 8 x 8 digits."""
    threat = ThreatModel("linf", eps=0.1)
    return Config(
        name="digits",
        data=DataConfig(Digits(), validation_size=200, augmentation=Augmentation(crop_padding=1)),
        method=method,
        optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=5e-4, schedule=Cosine()),
        training=TrainingConfig(phases=(Phase(epochs=15.0, batch_size=64),), validate_every=5.0),
        evaluation=Evaluation({"pgd": AttackRun(PGD(threat, num_steps=10, step_size=0.025))}),
    )


def digits_ensemble(num_members: int = 3) -> EnsembleConfig:
    """Returns the network of `digits`."""
    return EnsembleConfig(CNNConfig(widths=(12, 24, 48), strides=(2, 1, 2)), num_members)


def adversarially_trained(config: Config, attack: BoundedAttack) -> Config:
    """Returns the configuration trained on adversarial examples of the mean probability.

    LPD's paper gives neither eps nor steps; validation is by PGD-10 of the same eps.
    """
    return changes.with_training(
        config,
        adversarial=AdversarialTraining(attack),
        best_by="robust_accuracy",
        validation_attack=PGD(attack.threat, num_steps=10),
    )
