"""Data, networks, schedule and attacks of the random layer sampling paper's three datasets.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020. The paper gives M, K, N, SGD, rates, epochs and attack parameters. Choices where it
does not settle it:

* pixels lie in [-1, 1] (paper), so its eps are halved here, its constants c divided by 4;
* batch size 128; crop and flip on CIFAR-10, no augmentation on MNIST and SVHN;
* CIFAR's stem and heads at 32 x 32; MNIST is padded to that; VGG-16 with BatchNorm;
* PGD without random start; C&W and EAD with the given constant alone, EAD's beta 1e-3;
* 1,000 validation examples choose the best checkpoint, which the paper does not mention.
"""

import dataclasses
from typing import Any

from robust_jax.attacks import EAD, FGSM, PGD, CarliniWagner, DeepFool, ThreatModel
from robust_jax.config import Config, Phase, TrainingConfig
from robust_jax.data import TFDS, Augmentation, DataConfig
from robust_jax.methods import RandomLayerSampling, Standard
from robust_jax.models import (
    EnsembleConfig,
    NetworkConfig,
    Normalization,
    ResNetConfig,
    VGGConfig,
)
from robust_jax.optimizers import MultiStep, OptimizerConfig
from robust_jax.protocol import AttackRun, Evaluation, Judge

RESNET50 = ResNetConfig(depth=50)
VGG16 = VGGConfig(16)

SIZES = {
    ("mnist", "resnet50"): {"fgsm": (0.1, 0.2), "pgd": (0.05, 0.1), "constant": (0.1, 1.0)},
    ("cifar10", "resnet50"): {"fgsm": (0.01, 0.02), "pgd": (0.01, 0.02), "constant": (0.01, 0.1)},
    ("svhn", "resnet50"): {"fgsm": (0.05, 0.1), "pgd": (0.01, 0.02), "constant": (0.01, 0.1)},
    ("mnist", "vgg16"): {"fgsm": (0.4, 0.8), "pgd": (0.1, 0.2), "constant": (0.1, 1.0)},
    ("cifar10", "vgg16"): {"fgsm": (0.1, 0.2), "pgd": (0.01, 0.02), "constant": (0.01, 0.1)},
    ("svhn", "vgg16"): {"fgsm": (0.1, 0.2), "pgd": (0.02, 0.04), "constant": (0.01, 0.1)},
}
"""By dataset and network, eps and constants of tables 1 and 2, as the paper writes them."""


def attacks(dataset: str, network: str, view: str = "frozen_1") -> dict[str, AttackRun]:
    """Returns the attacks of table 1 or 2; names have the paper's numbers.

    Args:
        dataset: "mnist", "cifar10" or "svhn".
        network: "resnet50" or "vgg16".
        view: what is attacked.
    """
    sizes = SIZES[dataset, network]
    found: dict[str, Any] = {}
    for eps in sizes["fgsm"]:
        found[f"fgsm_{eps}"] = FGSM(ThreatModel("linf", eps=eps / 2))
    for eps in sizes["pgd"]:
        found[f"pgd10_{eps}"] = PGD(
            ThreatModel("linf", eps=eps / 2),
            num_steps=10,
            step_size=eps / 20,
            random_start=False,
            keep="last",
        )
    found["deepfool"] = DeepFool()
    for constant in sizes["constant"]:
        fields = {"num_searches": 1, "num_steps": 1000, "initial_constant": constant / 4}
        found[f"cw_{constant}"] = CarliniWagner(**fields)
        found[f"ead_{constant}"] = EAD(**fields, beta=0.5e-3)
    return {name: AttackRun(attack, view=view) for name, attack in found.items()}


def evaluation(dataset: str, network: str, view: str = "frozen_1") -> Evaluation:
    """Returns table 1 or 2: attacks on one sampled model, judged by the mean of N fresh draws."""
    return Evaluation(
        attacks=attacks(dataset, network, view),
        judges={"paper": Judge(rule="paper")},  # one prediction, itself a mean of N draws
        batch_size=128,
    )


def config(dataset: str, network: str = "resnet50", **fields: Any) -> Config:
    """Returns random layer sampling on a dataset with these fields of its method replaced."""
    channels = 1 if dataset == "mnist" else 3
    method = RandomLayerSampling(
        network=architecture(network),
        normalization=Normalization(mean=(0.5,) * channels, std=(0.5,) * channels),
    )
    source = {"mnist": "mnist", "cifar10": "cifar10", "svhn": "svhn_cropped"}[dataset]
    crop = Augmentation(crop_padding=4, flip=True)
    return Config(
        name=f"rls_{dataset}",
        data=DataConfig(
            TFDS(source),
            validation_size=1000,
            pad_to=32 if dataset == "mnist" else None,
            augmentation=crop if dataset == "cifar10" else Augmentation(),
        ),
        method=dataclasses.replace(method, **fields),
        optimizer=OptimizerConfig(
            learning_rate=0.01, weight_decay=5e-4, schedule=MultiStep(epochs=(50.0, 100.0))
        ),
        training=TrainingConfig(
            phases=(Phase(epochs=50.0 if dataset == "mnist" else 150.0, batch_size=128),)
        ),
        evaluation=evaluation(dataset, network),
    )


def architecture(network: str) -> NetworkConfig:
    """Returns "resnet50" or "vgg16"."""
    return {"resnet50": RESNET50, "vgg16": VGG16}[network]


def baseline(dataset: str, network: str, num_members: int = 1) -> Config:
    """Returns plain networks trained alike: the papers' baseline, or an independent ensemble."""
    found = config(dataset, network)
    plain = architecture(network)
    return dataclasses.replace(
        found,
        method=Standard(
            network=plain if num_members == 1 else EnsembleConfig(plain, num_members),
            normalization=found.method.normalization,
        ),
        evaluation=evaluation(dataset, network, view="deployed"),
    )


def variants(dataset: str) -> dict[str, Config]:
    """Returns the columns of tables 1 and 2 on a dataset."""
    return {
        "default": config(dataset),
        "vgg16": config(dataset, "vgg16"),
        "baseline": baseline(dataset, "resnet50"),
        "baseline_vgg16": baseline(dataset, "vgg16"),
    }


def named(config: Config, file: str, variant: str) -> Config:
    """Returns the configuration under the name of its file and variant (its work directory)."""
    name = file if variant == "default" else f"{file}-{variant}"
    return dataclasses.replace(config, name=name)
