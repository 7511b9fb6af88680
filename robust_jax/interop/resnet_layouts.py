"""Layouts of residual networks: torchvision's, timm's, the common CIFAR one and others."""

from robust_jax.interop.architecture import (
    CIFAR_LAYOUTS,
    CIFAR_NORMALIZATION,
    IMAGENET,
    IMAGENET_NORMALIZATION,
    Architecture,
    Path,
)
from robust_jax.models import Normalization, ResNetConfig, verification_resnet


def _akamaster_name(path: Path) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "linear": "linear"}
    if path[0] in outer:
        return outer[path[0]]
    return f"{path[0].replace('_', '.')}.{path[1].replace('norm', 'bn')}"


def _parl_name(path: Path) -> str:
    outer = {"stem_conv": "blocks.0.conv", "linear": "blocks.13"}
    if path[0] in outer:
        return outer[path[0]]
    stage, block = path[0].removeprefix("layer").split("_")
    inner = {"shortcut": "convr", "conv1": "conv1.conv", "conv2": "conv2.conv"}
    name = inner.get(path[1], path[1].replace("norm", "bn"))
    return f"blocks.{2 + 3 * (int(stage) - 1) + int(block)}.{name}"


def _torchvision_resnet_name(path: Path) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "linear": "fc"}
    if path[0] in outer:
        return outer[path[0]]
    inner = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
    name = inner.get(path[1], path[1].replace("norm", "bn"))
    return f"{path[0].replace('_', '.')}.{name}"


def cifar_resnet_name(path: Path) -> str:
    """Returns the name of a module in the common CIFAR layout."""
    name = _torchvision_resnet_name(path)
    return {"fc": "linear"}.get(name, name.replace("downsample", "shortcut"))


def _vnncomp_name(path: Path) -> str:
    outer = {"hidden1": "linear1", "linear": "linear2"}
    return outer.get(path[0]) or cifar_resnet_name(path)


RESNETS = {
    "resnet20_akamaster": Architecture(
        member=ResNetConfig(depth=20, shortcut="A"),
        prefixes=("",),
        module_name=_akamaster_name,
        normalization=IMAGENET_NORMALIZATION,
        counted=False,
    ),
    "parl_3x_resnet20": Architecture(
        member=ResNetConfig(depth=20, conv_bias=True, stem_norm=False, shortcut_norm=False),
        prefixes=("nets.0.", "nets.1.", "nets.2."),
        module_name=_parl_name,
        normalization=Normalization(mean=(0.4942, 0.4851, 0.4504), std=(0.2467, 0.2429, 0.2616)),
        vote="majority_lowest_class",
    ),
    **{
        f"resnet{depth}_{origin}": Architecture(
            member=ResNetConfig(depth=depth, stem="imagenet"),
            prefixes=("",),
            module_name=_torchvision_resnet_name,
            normalization=IMAGENET_NORMALIZATION,
            task=IMAGENET,
        )
        for depth in (18, 34, 50)
        for origin in ("torchvision", "timm")
    },
    **{
        f"resnet{depth}_{layout}": Architecture(
            member=ResNetConfig(depth=depth),
            prefixes=("",),
            module_name=cifar_resnet_name,
            normalization=normalization,
        )
        for depth in (18, 34, 50)
        for layout, normalization in CIFAR_LAYOUTS.items()
    },
    **{
        f"resnet{2 * stages}b_vnncomp": Architecture(
            member=verification_resnet(stages, width=16 * stages, positions=8 // stages),
            prefixes=("",),
            module_name=_vnncomp_name,
            normalization=CIFAR_NORMALIZATION,
        )
        for stages in (1, 2)
    },
}
