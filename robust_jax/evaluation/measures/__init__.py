"""Measures: what an evaluation asks of a model beside attacks and certificates."""

from robust_jax.attacks import ThreatModel
from robust_jax.evaluation.measures.base import (
    REDUCED_EXAMPLES,
    Found,
    Measure,
    PrintedNumbers,
    Subject,
)
from robust_jax.evaluation.measures.latency import Latency
from robust_jax.evaluation.measures.members import (
    Agreement,
    Gradients,
    LayerSimilarity,
    MemberTransfer,
)
from robust_jax.evaluation.measures.network import (
    Activations,
    Embedding,
    VotingLayers,
)
from robust_jax.evaluation.measures.weights import FilterSheet, KeepRate

__all__ = [
    "REDUCED_EXAMPLES",
    "Activations",
    "Agreement",
    "Embedding",
    "FilterSheet",
    "Found",
    "Gradients",
    "KeepRate",
    "Latency",
    "LayerSimilarity",
    "Measure",
    "MemberTransfer",
    "PrintedNumbers",
    "Subject",
    "VotingLayers",
    "standard",
]


def standard(threat: ThreatModel | None = None) -> dict[str, Measure]:
    """Returns what every report shows of a model that has it.

    None of them says nothing of a few images: an `Embedding` of sixty dots has no clusters to see,
    and is asked for by name.

    Args:
        threat: ball of the examples that members make for each other; None for .01 in Linf.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> from robust_jax.evaluation.measures import standard
        >>> list(standard(ThreatModel("linf", eps=8 / 255)))
        ['agreement', 'gradients', 'member transfer', 'layer similarity', 'filters']
    """
    transfer = MemberTransfer() if threat is None else MemberTransfer(threat=threat)
    return {
        "agreement": Agreement(networks_only=True),
        "gradients": Gradients(networks_only=True),
        "member transfer": transfer,
        "layer similarity": LayerSimilarity(),
        "filters": FilterSheet(),
    }
