"""Data, networks and schedules of the KAP paper's four datasets.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022. The paper gives image sizes (32, 128, 224), the network and ImageNet's weight decay of KAP;
everything else is the training table of the same laboratory's later code (LLCNN).

Choices where neither settles it:

* images are not normalised (the code's default), except where Fast-AT's recipe does;
* validation examples are carved from the training images, 1,000 for CIFAR (as Rice et al.), 2,000
  for TinyImageNet, 10,000 for ImageNet, and the best checkpoint is chosen on them, after every
  epoch: by accuracy, in adversarial training by accuracy under PGD;
* the networks of TinyImageNet and ImageNet have the square widths of the code's KAP networks in
  all rows, so that rows differ in the method alone;
* adversarial training: Rice et al.'s weight decay and schedule on CIFAR, the dataset's own on
  TinyImageNet, Fast-AT's on ImageNet; attacks see the batch's statistics.
"""

import dataclasses
from typing import Any

from robust_jax.attacks import PGD, Attack, ThreatModel
from robust_jax.data import TFDS, Augmentation, DataConfig, Folder
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import KAP, Standard
from robust_jax.models import NetworkConfig, Normalization, ResNetConfig
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import MultiStep, OptimizerConfig, PiecewiseLinear

from . import changes

SQUARE_WIDTHS = (64, 144, 256, 529)
"""8, 12, 16 and 23 squared: stages whose kernels fill a square sheet."""

IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def cifar(dataset: str, evaluation: Evaluation) -> Config:
    """Returns the plain ResNet-18 on "cifar10" or "cifar100"."""
    return Config(
        name=f"standard_{dataset}",
        data=DataConfig(
            TFDS(dataset),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, flip=True),
        ),
        method=Standard(network=ResNetConfig(depth=18, stem="cifar")),
        optimizer=OptimizerConfig(
            learning_rate=0.1, weight_decay=1e-4, schedule=MultiStep(epochs=(150.0,))
        ),
        training=TrainingConfig(phases=(Phase(epochs=200.0, batch_size=128),)),
        evaluation=evaluation,
    )


def tiny_imagenet(evaluation: Evaluation) -> Config:
    """Returns the plain ResNet-18 on TinyImageNet at 128 x 128."""
    return Config(
        name="standard_tiny_imagenet",
        data=DataConfig(
            Folder("data/tiny-imagenet-200"),
            validation_size=2000,
            image_size=128,
            augmentation=Augmentation(random_resized_crop=True, flip=True),
        ),
        method=Standard(network=imagenet_resnet18()),
        optimizer=OptimizerConfig(
            learning_rate=0.1, weight_decay=1e-4, schedule=MultiStep(epochs=(30.0, 60.0))
        ),
        training=TrainingConfig(phases=(Phase(epochs=90.0, batch_size=128),)),
        evaluation=evaluation,
    )


def imagenet(evaluation: Evaluation) -> Config:
    """Returns the plain ResNet-18 on ImageNet at 224 x 224."""
    return Config(
        name="standard_imagenet",
        data=DataConfig(
            TFDS("imagenet2012"),
            validation_size=10_000,
            image_size=224,
            resize_to=256,
            augmentation=Augmentation(random_resized_crop=True, flip=True),
        ),
        method=Standard(network=imagenet_resnet18()),
        optimizer=OptimizerConfig(
            learning_rate=0.1, weight_decay=1e-4, schedule=MultiStep(epochs=(40.0, 80.0))
        ),
        training=TrainingConfig(phases=(Phase(epochs=100.0, batch_size=256),)),
        evaluation=evaluation,
    )


def imagenet_resnet18(*, width_multiplier: float = 1.0) -> ResNetConfig:
    """Returns the ResNet-18 of TinyImageNet and ImageNet; WideX4 has a multiplier of 4."""
    return ResNetConfig(
        depth=18, stem="imagenet", widths=SQUARE_WIDTHS, width_multiplier=width_multiplier
    )


def with_kap(config: Config, **fields: Any) -> Config:
    """Returns the configuration with its network made a KAP network; `fields` are `KAP`'s.

    CIFAR's networks pool straight after the convolution, the others after one more BatchNorm.
    """
    network = config.method.network
    assert isinstance(network, ResNetConfig)
    order = "conv_pool" if network.stem == "cifar" else "conv_norm_pool"
    fields = {"network": network, "order": order} | fields
    return dataclasses.replace(config, method=KAP(**fields))


def with_network(config: Config, network: NetworkConfig) -> Config:
    """Returns the configuration with another network."""
    return changes.with_method(config, network=network)


def adversarially_trained(config: Config, attack: Attack, validation_attack: Attack) -> Config:
    """Returns the configuration trained on adversarial examples, stopped early by PGD accuracy.

    References:
        Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018; Rice,
        Wong, Kolter, "Overfitting in adversarially robust deep learning", 2020.
    """
    config = stopped_early(config, validation_attack)
    return changes.with_training(config, adversarial=AdversarialTraining(attack, view="train"))


def stopped_early(config: Config, validation_attack: Attack) -> Config:
    """Returns the configuration whose best checkpoint is chosen under attack."""
    return changes.with_training(
        config,
        best_by="robust_accuracy",
        validation_attack=validation_attack,
        validation_examples=1000,
    )


def with_rice_optimizer(config: Config) -> Config:
    """Returns the CIFAR configuration with the weight decay and schedule of Rice et al., 2020."""
    return changes.with_optimizer(
        config, weight_decay=5e-4, schedule=MultiStep(epochs=(100.0, 150.0), factor=0.1)
    )


def fast_adversarially_trained(config: Config, validation_attack: Attack) -> Config:
    """Returns the ImageNet configuration trained by Fast-AT, eps = 4/255.

    One step of 5/255 from a random start, 15 epochs in three phases of image and batch size.
    Deviations: float32 in place of half precision, crops straight from the original images (Fast-AT
    stores smaller copies first), the best checkpoint by PGD accuracy, all tests at 224.

    References:
        Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", 2020, and
        the configurations of its code.
    """
    attack = PGD(ThreatModel("linf", eps=4 / 255), num_steps=1, step_size=5 / 255, keep="last")
    config = adversarially_trained(config, attack, validation_attack)
    config = changes.with_method(config, normalization=IMAGENET_NORMALIZATION)
    rate = 0.4
    config = changes.with_optimizer(
        config,
        learning_rate=rate,
        schedule=PiecewiseLinear(
            epochs=(0.0, 1.0, 6.0, 12.0, 15.0),
            factors=tuple(value / rate for value in (0.0, 0.4, 0.04, 0.004, 0.0004)),
        ),
    )
    phases = (
        Phase(epochs=6.0, batch_size=512, image_size=128),
        Phase(epochs=6.0, batch_size=224, image_size=224),
        Phase(epochs=3.0, batch_size=128, image_size=288),
    )
    return changes.with_training(config, phases=phases)
