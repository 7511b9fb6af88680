"""Layouts of networks without shortcuts: VGG, and a small convolutional network."""

from collections.abc import Callable

from robust_jax.interop.architecture import (
    CIFAR10,
    CIFAR_LAYOUTS,
    IMAGENET,
    IMAGENET_NORMALIZATION,
    Architecture,
    Path,
)
from robust_jax.models import CNNConfig, Normalization, VGGConfig, imagenet_vgg
from robust_jax.types import Task


def _cnn_a_name(path: Path) -> str:
    return {"conv1": "0", "conv2": "2", "hidden1": "5", "linear": "7"}[path[0]]


def _vgg_name(network: VGGConfig, linear: tuple[str, ...]) -> Callable[[Path], str]:
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

    def name(path: Path) -> str:
        if path[0] == "linear":
            return linear[-1]
        if path[0].startswith("hidden"):
            return linear[int(path[0].removeprefix("hidden")) - 1]
        return f"features.{numbers[path[0]]}"

    return name


def _vgg(
    network: VGGConfig, *linear: str, normalization: Normalization | None, task: Task = CIFAR10
) -> Architecture:
    name = _vgg_name(network, linear)
    return Architecture(network, ("",), name, normalization, task=task)


PLAIN_NETWORKS = {
    **{
        f"vgg{depth}{'_bn' if norm else ''}_torchvision": _vgg(
            imagenet_vgg(depth, norm=norm),
            *("classifier.0", "classifier.3", "classifier.6"),
            normalization=IMAGENET_NORMALIZATION,
            task=IMAGENET,
        )
        for depth in (16, 19)
        for norm in (False, True)
    },
    **{
        f"vgg{depth}_{layout}": _vgg(VGGConfig(depth), "classifier", normalization=normalization)
        for depth in (16, 19)
        for layout, normalization in CIFAR_LAYOUTS.items()
    },
    **{
        f"vgg{depth}_cifar_hidden": _vgg(
            VGGConfig(depth, norm=False, hidden=(512, 512)),
            *("classifier.1", "classifier.4", "classifier.6"),
            normalization=IMAGENET_NORMALIZATION,
        )
        for depth in (16, 19)
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
