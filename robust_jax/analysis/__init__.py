"""What explains a defence: diversity of members, geometry inside the network."""

from robust_jax.analysis.diversity import (
    GradientStatistics,
    entropy,
    gradient_statistics,
    keep_rate,
    member_gradients,
    quartiles,
    summarize_gradients,
)
from robust_jax.analysis.geometry import (
    Perturbation,
    kernel_activations,
    matched_noise,
    norms,
    perturbations,
    tsne,
    zero_share,
)
from robust_jax.analysis.layer_votes import LayerVotes, layer_votes
from robust_jax.analysis.similarity import Similarity, linear_cka, similarity
from robust_jax.analysis.transfer import Transfer, member_views, success_rates, transfer

__all__ = [
    "GradientStatistics",
    "LayerVotes",
    "Perturbation",
    "Similarity",
    "Transfer",
    "entropy",
    "gradient_statistics",
    "keep_rate",
    "kernel_activations",
    "layer_votes",
    "linear_cka",
    "matched_noise",
    "member_gradients",
    "member_views",
    "norms",
    "perturbations",
    "quartiles",
    "similarity",
    "success_rates",
    "summarize_gradients",
    "transfer",
    "tsne",
    "zero_share",
]
