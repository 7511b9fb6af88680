"""Public PyTorch checkpoints by name: which network they hold, and where its arrays are."""

from collections.abc import Callable
from typing import NamedTuple

from robust_jax.models import (
    CNNConfig,
    EnsembleConfig,
    NetworkConfig,
    Normalization,
    ResNetConfig,
    VGGConfig,
    imagenet_vgg,
    verification_resnet,
)
from robust_jax.types import Task
from robust_jax.voting import Vote

CIFAR10 = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
IMAGENET = Task(input_shape=(224, 224, 3), num_classes=1000, num_train=1_281_167)


class Architecture(NamedTuple):
    """A public checkpoint's network, and where its arrays are in the file.

    Attributes:
        member: architecture of the network, of an ensemble's members.
        prefixes: what stands before every name of each member; more than one for an ensemble.
        module_name: PyTorch's name of a module, from its path in our variables.
        normalization: of images, before the network; None where the name does not say, so that
            whoever imports must.
        vote: how members decide.
        task: what it was trained on.
    """

    member: ResNetConfig | VGGConfig | CNNConfig
    prefixes: tuple[str, ...]
    module_name: Callable[[tuple[str, ...]], str]
    normalization: Normalization | None
    vote: Vote = "mean_probability"
    task: Task = CIFAR10

    @property
    def network(self) -> NetworkConfig:
        """The whole network."""
        if len(self.prefixes) == 1:
            return self.member
        return EnsembleConfig(member=self.member, num_members=len(self.prefixes))


def _akamaster_name(path: tuple[str, ...]) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "linear": "linear"}
    if path[0] in outer:
        return outer[path[0]]
    return f"{path[0].replace('_', '.')}.{path[1].replace('norm', 'bn')}"


def _parl_name(path: tuple[str, ...]) -> str:
    outer = {"stem_conv": "blocks.0.conv", "linear": "blocks.13"}
    if path[0] in outer:
        return outer[path[0]]
    stage, block = path[0].removeprefix("layer").split("_")
    inner = {"shortcut": "convr", "conv1": "conv1.conv", "conv2": "conv2.conv"}
    name = inner.get(path[1], path[1].replace("norm", "bn"))
    return f"blocks.{2 + 3 * (int(stage) - 1) + int(block)}.{name}"


def _torchvision_resnet_name(path: tuple[str, ...]) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "linear": "fc"}
    if path[0] in outer:
        return outer[path[0]]
    inner = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
    name = inner.get(path[1], path[1].replace("norm", "bn"))
    return f"{path[0].replace('_', '.')}.{name}"


def _cifar_resnet_name(path: tuple[str, ...]) -> str:
    name = _torchvision_resnet_name(path)
    return {"fc": "linear"}.get(name, name.replace("downsample", "shortcut"))


def _vnncomp_name(path: tuple[str, ...]) -> str:
    outer = {"hidden1": "linear1", "linear": "linear2"}
    return outer.get(path[0]) or _cifar_resnet_name(path)


def _cnn_a_name(path: tuple[str, ...]) -> str:
    return {"conv1": "0", "conv2": "2", "hidden1": "5", "linear": "7"}[path[0]]


def _vgg_name(network: VGGConfig, linear: tuple[str, ...]) -> Callable[[tuple[str, ...]], str]:
    """Returns the name map of a VGG whose convolutions lie in the sequence `features`.

    Args:
        network: which.
        linear: names of its linear layers, the last one last.
    """
    numbers, place = {}, 0
    for number, last in enumerate(network.last_in_stage, 1):
        numbers[f"conv{number}"], numbers[f"norm{number}"] = place, place + 1
        # Convolution, norm, activation; a max pool ends the stage.
        place += 2 + network.norm + last

    def name(path: tuple[str, ...]) -> str:
        if path[0] == "linear":
            return linear[-1]
        if path[0].startswith("hidden"):
            return linear[int(path[0].removeprefix("hidden")) - 1]
        return f"features.{numbers[path[0]]}"

    return name


_IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


_CIFAR_LAYOUTS = {
    "cifar": None,
    "pytorch_cifar": Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
}
"""Normalisation of who has the common CIFAR layout: anybody, or that repository's own training."""


def _vgg(
    network: VGGConfig, *linear: str, normalization: Normalization | None, task: Task = CIFAR10
) -> Architecture:
    name = _vgg_name(network, linear)
    return Architecture(network, ("",), name, normalization, task=task)


ARCHITECTURES = {
    "resnet20_akamaster": Architecture(
        member=ResNetConfig(depth=20, shortcut="A"),
        prefixes=("",),
        module_name=_akamaster_name,
        normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ),
    "parl_3x_resnet20": Architecture(
        member=ResNetConfig(depth=20, conv_bias=True, stem_norm=False, shortcut_norm=False),
        prefixes=("nets.0.", "nets.1.", "nets.2."),
        module_name=_parl_name,
        normalization=Normalization(mean=(0.4942, 0.4851, 0.4504), std=(0.2467, 0.2429, 0.2616)),
        vote="majority_lowest_class",
    ),
    **{
        f"resnet{depth}_torchvision": Architecture(
            member=ResNetConfig(depth=depth, stem="imagenet"),
            prefixes=("",),
            module_name=_torchvision_resnet_name,
            normalization=_IMAGENET_NORMALIZATION,
            task=IMAGENET,
        )
        for depth in (18, 34, 50)
    },
    **{
        f"resnet{depth}_{layout}": Architecture(
            member=ResNetConfig(depth=depth),
            prefixes=("",),
            module_name=_cifar_resnet_name,
            normalization=normalization,
        )
        for depth in (18, 34, 50)
        for layout, normalization in _CIFAR_LAYOUTS.items()
    },
    **{
        f"vgg{depth}{'_bn' if norm else ''}_torchvision": _vgg(
            imagenet_vgg(depth, norm=norm),
            *("classifier.0", "classifier.3", "classifier.6"),
            normalization=_IMAGENET_NORMALIZATION,
            task=IMAGENET,
        )
        for depth in (16, 19)
        for norm in (False, True)
    },
    **{
        f"vgg{depth}_{layout}": _vgg(VGGConfig(depth), "classifier", normalization=normalization)
        for depth in (16, 19)
        for layout, normalization in _CIFAR_LAYOUTS.items()
    },
    **{
        f"vgg{depth}_cifar_hidden": _vgg(
            VGGConfig(depth, norm=False, hidden=(512, 512)),
            *("classifier.1", "classifier.4", "classifier.6"),
            normalization=_IMAGENET_NORMALIZATION,
        )
        for depth in (16, 19)
    },
    **{
        f"resnet{2 * stages}b_vnncomp": Architecture(
            member=verification_resnet(stages, width=16 * stages, positions=8 // stages),
            prefixes=("",),
            module_name=_vnncomp_name,
            normalization=Normalization(
                mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616)
            ),
        )
        for stages in (1, 2)
    },
    "cnn_a_sdp": Architecture(
        member=CNNConfig(
            widths=(16, 32),
            strides=(2, 2),
            kernel_size=4,
            conv_bias=True,
            norm=False,
            positions=8,
            hidden=(100,),
        ),
        prefixes=("",),
        module_name=_cnn_a_name,
        normalization=Normalization(
            mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255)
        ),
    ),
}
