"""Layouts of adversarially trained CIFAR-10 networks, as RobustBench's files have them.

Which checkpoints have which layout, what they are normalised by, and which files hold arrays that
no network uses: RobustBench 1.1.1, `model_zoo/cifar10.py` and `utils.py`. None of its code is here.
"""

from robust_jax.interop.architecture import (
    CIFAR_NORMALIZATION,
    IMAGENET_NORMALIZATION,
    NARROW_NORMALIZATION,
    NOTHING,
    Architecture,
    Path,
)
from robust_jax.interop.resnet_layouts import cifar_resnet_name
from robust_jax.models import Normalization, PreActResNetConfig, ResNetConfig, WideResNetConfig

_BUFFERS = ("mu", "sigma")


def _block_and_module(path: Path) -> tuple[int, int, str]:
    """Returns stage and number of a block, from 1 and from 0, and the name of its module."""
    stage, block = path[0].removeprefix("layer").split("_")
    return int(stage), int(block), path[1]


def _pre_act_name(path: Path, first_norm: int = 1) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "final_norm": "bn", "linear": "linear"}
    if path[0] in outer:
        return outer[path[0]]
    stage, block, module = _block_and_module(path)
    inner = {"shortcut": "shortcut.0", "shortcut_norm": "shortcut.1"}
    if module.startswith("norm"):
        number = int(module.removeprefix("norm")) - 1 + first_norm
        module = f"bn{number}"
    return f"layer{stage}.{block}.{inner.get(module, module)}"


def _chen_name(path: Path) -> str:
    return _pre_act_name(path, first_norm=0)


def _wide_name(path: Path) -> str:
    outer = {"stem_conv": "conv1", "final_norm": "bn1", "linear": "fc"}
    if path[0] in outer:
        return outer[path[0]]
    stage, block, module = _block_and_module(path)
    name = {"shortcut": "convShortcut"}.get(module, module.replace("norm", "bn"))
    return f"block{stage}.layer.{block}.{name}"


def _deepmind_name(path: Path, *, stem: str, block: str, conv: str, first_conv: int) -> str:
    """Returns DeepMind's name of a module.

    Args:
        path: in our variables.
        stem: name of the first convolution.
        block: of a block, from "stage", counted from 0, and "block".
        conv: what a block's convolutions are called before their number.
        first_conv: their first number.
    """
    outer = {"stem_conv": stem, "final_norm": "batchnorm", "linear": "logits"}
    if path[0] in outer:
        return outer[path[0]]
    stage, number, module = _block_and_module(path)
    if module.startswith("norm"):
        module = f"batchnorm_{int(module.removeprefix('norm')) - 1}"
    elif module.startswith("conv"):
        module = f"{conv}_{int(module.removeprefix('conv')) - 1 + first_conv}"
    return f"{block.format(stage=stage - 1, block=number)}.{module}"


def _deepmind_wide_name(path: Path) -> str:
    block = "layer.{stage}.block.{block}"
    return _deepmind_name(path, stem="init_conv", block=block, conv="conv", first_conv=0)


def _deepmind_pre_act_name(path: Path) -> str:
    block = "layer_{stage}.{block}"
    return _deepmind_name(path, stem="conv_2d", block=block, conv="conv_2d", first_conv=1)


def _wide(
    depth: int,
    widening: int,
    normalization: Normalization,
    *,
    dead: tuple[str, ...] = (),
    buffers: tuple[str, str] | None = None,
) -> Architecture:
    """Returns the layout that came from TRADES: a WRN of ReLUs."""
    network = WideResNetConfig(depth, widening)
    return Architecture(network, ("",), _wide_name, normalization, dead=dead, buffers=buffers)


ROBUST_NETWORKS = {
    "resnet50_engstrom2019": Architecture(
        member=ResNetConfig(depth=50),
        prefixes=("",),
        module_name=cifar_resnet_name,
        normalization=NARROW_NORMALIZATION,
        buffers=_BUFFERS,
    ),
    "preact_resnet18_wong2020": Architecture(
        member=PreActResNetConfig(final_norm=False, shortcut_start="raw"),
        prefixes=("",),
        module_name=_pre_act_name,
        normalization=CIFAR_NORMALIZATION,
        buffers=_BUFFERS,
    ),
    "preact_resnet18_andriushchenko2020": Architecture(
        member=PreActResNetConfig(final_norm=False, shortcut_start="raw"),
        prefixes=("",),
        module_name=_pre_act_name,
        normalization=NOTHING,
        dead=("model_preact_hl1.",),
    ),
    "preact_resnet18_rice2020": Architecture(
        member=PreActResNetConfig(),
        prefixes=("",),
        module_name=_pre_act_name,
        normalization=CIFAR_NORMALIZATION,
        buffers=_BUFFERS,
    ),
    "wrn34_20_rice2020": _wide(34, 20, CIFAR_NORMALIZATION, buffers=_BUFFERS),
    "wrn28_10_carmon2019": _wide(28, 10, NOTHING, dead=("sub_block1.",)),
    "wrn34_10_zhang2019": _wide(34, 10, NOTHING, dead=("sub_block1.",)),
    **{
        f"wrn{depth}_{widening}_gowal2020": Architecture(
            member=WideResNetConfig(depth, widening, activation="silu", framework="torch_same"),
            prefixes=("",),
            module_name=_deepmind_wide_name,
            normalization=CIFAR_NORMALIZATION,
        )
        for depth, widening in ((28, 10), (34, 10), (34, 20), (70, 16), (106, 16))
    },
    **{
        f"preact_resnet18_{paper}": Architecture(
            member=PreActResNetConfig(
                activation="silu", framework="torch_same", shortcut_start="raw", shortcut_size=3
            ),
            prefixes=("",),
            module_name=_deepmind_pre_act_name,
            normalization=CIFAR_NORMALIZATION,
        )
        for paper in ("rebuffi2021", "rade2021")
    },
    "preact_resnet50_chen2020": Architecture(
        member=PreActResNetConfig(depth=50, final_norm=False, stem_norm=True, shortcut_norm=True),
        prefixes=("",),
        module_name=_chen_name,
        normalization=IMAGENET_NORMALIZATION,
    ),
}
"""RobustBench normalises outside Chen et al.'s three networks, whose files are one each."""
