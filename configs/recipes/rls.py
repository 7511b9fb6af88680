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
import textwrap
from typing import Any

from robust_jax.attacks import EAD, FGSM, PGD, CarliniWagner, DeepFool, ThreatModel
from robust_jax.data import TFDS, Augmentation, DataConfig
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Judge, Printed
from robust_jax.experiment.config import Config
from robust_jax.methods import RandomLayerSampling, Standard
from robust_jax.models import EnsembleConfig, NetworkConfig, Normalization, ResNetConfig, VGGConfig
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.optimizers import MultiStep, OptimizerConfig

from . import printed

PAPERS_RULE = Judge(rule="paper", counts="attacked")
"""One prediction, itself a mean of N draws, of every attacked image: plain accuracy."""
JUDGES = {"paper": PAPERS_RULE}
ADVERSARY = Adversary(
    skip_misclassified=False,
    num_submissions=10,  # each is N passes of the network
)

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

PRINTED = {
    ("mnist", "resnet50"): """
        baseline | 99.5 89.5 44.1 68.3 30.8 3.7  43.7 13.8 35.9 12.8
        RLS      | 99.6 98.6 70.4 86.4 62.5 91.4 83.9 75.3 68.0 48.3""",
    ("cifar10", "resnet50"): """
        baseline | 95.1 45.4 35.6 36.4 12.0 0.4  41.7 16.4 26.2 10.8
        RLS      | 96.7 65.1 48.1 70.9 39.2 84.9 91.7 87.9 79.0 47.6""",
    ("svhn", "resnet50"): """
        baseline | 96.2 40.4 28.5 66.0 35.3 1.1  38.8 9.5  29.8 5.9
        RLS      | 97.6 56.2 41.0 88.4 68.5 84.1 92.3 75.7 80.3 69.2""",
    ("mnist", "vgg16"): """
        baseline | 98.2 67.3 16.7 66.55 23.57 1.7 58.5 15.2 48.1 22.2
        RLS      | 99.1 84.3 28.6 83.9 49.1 82.2 89.5 65.8 65.7 45.6""",
    ("cifar10", "vgg16"): """
        baseline | 92.1 45.4 22.0 54.7 37.4 0.9  61.0 18.2 51.4 28.5
        RLS      | 93.7 53.3 28.1 78.8 58.9 67.9 91.5 74.3 84.3 44.9""",
    ("svhn", "vgg16"): """
        baseline | 96.5 27.8 17.4 42.5 18.4 1.3  47.1 13.9 18.0 3.8
        RLS      | 97.0 40.1 26.8 74.0 45.0 68.4 88.6 68.5 67.4 61.2""",
}
"""Tables 1 and 2: clean, FGSM, PGD, DeepFool, C&W, EAD; of two sizes the smaller first."""


def printed_numbers(dataset: str, network: str) -> Printed:
    """Returns table 1 (ResNet-50) or 2 (VGG-16) of a dataset."""
    sizes = SIZES[dataset, network]
    rows = ["clean"]
    for name, field in (("fgsm", "fgsm"), ("pgd10", "pgd"), ("", ""), ("cw", "constant")):
        rows += [f"{name}_{size}" for size in sizes[field]] if field else ["deepfool"]
    rows += [f"ead_{size}" for size in sizes["constant"]]
    plain, variant = ("baseline", "") if network == "resnet50" else ("baseline_vgg16", "-vgg16")
    numbers = textwrap.dedent(PRINTED[dataset, network])
    numbers = numbers.replace("baseline", f"rls_{dataset}-{plain}")
    numbers = numbers.replace("RLS", f"rls_{dataset}{variant}")
    name = "table 1" if network == "resnet50" else "table 2"
    return printed.table(name, f"model | {' '.join(rows)}{numbers}")


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
        judges=JUDGES,
        adversary=ADVERSARY,
        batch_size=128,
        printed=printed_numbers(dataset, network),
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
