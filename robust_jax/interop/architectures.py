"""Public PyTorch checkpoints by name."""

from robust_jax.interop.architecture import Architecture
from robust_jax.interop.resnet_layouts import RESNETS
from robust_jax.interop.robust_layouts import ROBUST_NETWORKS
from robust_jax.interop.vgg_layouts import PLAIN_NETWORKS

ARCHITECTURES: dict[str, Architecture] = {**RESNETS, **PLAIN_NETWORKS, **ROBUST_NETWORKS}


def design_of(architecture: str) -> Architecture:
    """Returns the architecture of a name.

    Raises:
        ValueError: there is none.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"Expected architecture={architecture!r} to be one of {sorted(ARCHITECTURES)}."
        )
    return ARCHITECTURES[architecture]
