"""Networks whose residual branches pass on less gradient: from these, attacks transfer better.

Wu et al., "Skip Connections Matter: On the Transferability of Adversarial Examples Generated with
ResNets", ICLR 2020.
"""

import dataclasses

from flax import linen as nn

from robust_jax.models import Classifier, EnsembleConfig, ResidualConfig

SKIP_GRADIENT = 0.2
"""Factor of the residual branches' gradient in the view `skip_gradient`, as DVERGE's evaluation."""


def with_skip_gradient(network: nn.Module) -> nn.Module | None:
    """Returns the network with its residual branches' gradient scaled; None where it has none.

    Its logits and variables are the network's own.
    """
    if not isinstance(network, Classifier):
        return None
    config = network.backbone.config
    ensemble = isinstance(config, EnsembleConfig)
    member = config.member if ensemble else config
    if not isinstance(member, ResidualConfig):
        return None
    member = dataclasses.replace(member, branch_gradient=SKIP_GRADIENT)
    config = dataclasses.replace(config, member=member) if ensemble else member
    return network.clone(backbone=network.backbone.clone(config=config))
