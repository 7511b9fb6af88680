"""What explains a defence: diversity of members, geometry inside the network, and figures."""

from robust_jax.analysis.diversity import (
    GradientStatistics,
    entropy,
    gradient_statistics,
    keep_rate,
    member_gradients,
    quartiles,
    summarize_gradients,
)
from robust_jax.analysis.figures_accuracy import (
    Certified,
    accuracy_bars,
    accuracy_by_layers,
    accuracy_curves,
    certified_curves,
    shares,
)
from robust_jax.analysis.figures_decisions import (
    confusion_matrix,
    keep_rate_curves,
    margin_scatter,
)
from robust_jax.analysis.figures_images import filter_sheet, gradient_pictures, image_twins
from robust_jax.analysis.figures_layers import (
    embedding_scatter,
    heat_map,
    layer_curves,
    layer_histograms,
    quartile_intervals,
    similarity_curves,
)
from robust_jax.analysis.geometry import (
    Perturbation,
    TapsView,
    kernel_activations,
    matched_noise,
    norms,
    perturbations,
    tsne,
    with_members,
    zero_share,
)
from robust_jax.analysis.layer_votes import LayerVotes, layer_votes
from robust_jax.analysis.similarity import Similarity, linear_cka, similarity
from robust_jax.analysis.transfer import Transfer, member_views, success_rates, transfer

__all__ = [
    "Certified",
    "GradientStatistics",
    "LayerVotes",
    "Perturbation",
    "Similarity",
    "TapsView",
    "Transfer",
    "accuracy_bars",
    "accuracy_by_layers",
    "accuracy_curves",
    "certified_curves",
    "confusion_matrix",
    "embedding_scatter",
    "entropy",
    "filter_sheet",
    "gradient_pictures",
    "gradient_statistics",
    "heat_map",
    "image_twins",
    "keep_rate",
    "keep_rate_curves",
    "kernel_activations",
    "layer_curves",
    "layer_histograms",
    "layer_votes",
    "linear_cka",
    "margin_scatter",
    "matched_noise",
    "member_gradients",
    "member_views",
    "norms",
    "perturbations",
    "quartile_intervals",
    "quartiles",
    "shares",
    "similarity",
    "similarity_curves",
    "success_rates",
    "summarize_gradients",
    "transfer",
    "tsne",
    "with_members",
    "zero_share",
]
