"""What the report shows beside the records: asked of the model on its first few images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from robust_jax import analysis, metrics, rng
from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.compilation import jitted
from robust_jax.methods import KAP, Method, MethodConfig
from robust_jax.types import Variables

MIN_TSNE = 40
"""Fewest images worth an embedding."""


class Diversity(NamedTuple):
    """How the members of an ensemble differ.

    Attributes:
        correct: is a member right on a clean image? [m b]
        agreement: interrater agreement, kappa.
        entropy: E.
        gradients: by loss, quartiles of L_d and L_s, and the shares of zero gradients.
        transfer: accuracy of each member, and last of the vote, on each member's examples.
        cka: by pair of members, by layer.
        threat: ball of the transferred examples.
    """

    correct: np.ndarray
    agreement: float
    entropy: float
    gradients: dict[str, dict[str, list[float]]]
    transfer: np.ndarray
    cka: dict[str, dict[str, float]]
    threat: ThreatModel


class Measured(NamedTuple):
    """What `measure` found.

    Attributes:
        diversity: of an ensemble; None of a single network.
        embedding: t-SNE of the last tap [b 2], None where there are too few images or no taps.
        labels: of the images that were embedded.
        kernel: of the first convolution of a KAP network, and its sheet; None of others.
    """

    diversity: Diversity | None
    embedding: np.ndarray | None
    labels: np.ndarray
    kernel: tuple[np.ndarray, tuple[int, int]] | None


def measure(
    method: Method,
    config: MethodConfig,
    variables: Variables,
    images: Float[Array, "b h w k"],
    labels: Int[Array, " b"],
    threat: ThreatModel | None,
    *,
    seed: int = 0,
) -> Measured:
    """Returns what the report shows beside the records.

    Args:
        method: what is evaluated.
        config: its configuration.
        variables: its arrays.
        images: a few clean images.
        labels: their classes.
        threat: ball of the examples that members make for each other; None for .01 in Linf.
        seed: of the embedding and of random draws.
    """
    key = rng.stream(jax.random.key(seed), "report")
    found_diversity = embedding = None
    has_taps = "taps" in method.views
    if has_taps and _has_members(method, variables, images, key):
        ball = threat or ThreatModel("linf", 0.01)
        found_diversity = _diversity(method, config, variables, images, labels, ball, key)
    if has_taps and len(images) >= MIN_TSNE:
        taps = jitted(method.view("taps"))(variables, images, key=rng.stream(key, "taps"))
        last = analysis.with_members(taps[sorted(taps)[-2]])[0]
        perplexity = min(30.0, len(images) / 4)
        embedding = analysis.tsne(last.reshape(len(images), -1), perplexity=perplexity, seed=seed)
    return Measured(found_diversity, embedding, np.asarray(labels), _sheet(config, variables))


def _has_members(method: Method, variables: Variables, images: Array, key: Array) -> bool:
    """Returns whether its members are networks with activations of their own.

    Draws of one random network and REGroup's layers are not.
    """

    def members(variables: Variables, images: Array) -> tuple[Any, Any]:
        tap = next(iter(method.view("taps")(variables, images, key=key).values()))
        return method.view("members")(variables, images, key=key), analysis.with_members(tap)

    voters, networks = jax.eval_shape(members, variables, images)
    return voters.shape[0] == networks.shape[0] > 1


def _diversity(
    method: Method,
    config: MethodConfig,
    variables: Variables,
    images: Array,
    labels: Array,
    threat: ThreatModel,
    key: Array,
) -> Diversity:
    members: Any = bind(method.view("members"), variables)
    logits = jitted(lambda m, i, k: m(i, key=k))(members, images, rng.stream(key, "members"))
    right = jnp.argmax(logits, axis=-1) == labels[None]
    gradients = {}
    for loss in ("cross_entropy", "margin"):
        slopes = analysis.member_gradients(
            members, images, labels, key=rng.stream(key, "gradients"), loss=loss
        )
        gradients[loss] = analysis.summarize_gradients(analysis.gradient_statistics(slopes))
    num_members = len(right)
    sent = analysis.transfer(
        PGD(threat, num_steps=10),
        analysis.member_views(members, num_members),
        members,
        images,
        labels,
        key=rng.stream(key, "transfer"),
        vote=config.vote,
    )
    accuracy = jnp.concatenate(
        [jnp.mean(sent.members, axis=-1), jnp.mean(sent.ensemble, axis=-1)[:, None]], axis=1
    )
    taps: Any = bind(method.view("taps"), variables)
    alike = analysis.similarity(taps, [images], key=rng.stream(key, "similarity"))
    pairs = [(i, j) for i in range(num_members) for j in range(i + 1, num_members)]
    return Diversity(
        correct=np.asarray(right),
        agreement=float(metrics.interrater_agreement(right)),
        entropy=float(analysis.entropy(right)),
        gradients=gradients,
        transfer=np.asarray(accuracy),
        cka={
            f"{i + 1} and {j + 1}": {
                layer: float(value) for layer, value in alike.between(i, j, debiased=True).items()
            }
            for i, j in pairs
        },
        threat=threat,
    )


def _sheet(config: MethodConfig, variables: Variables) -> tuple[np.ndarray, tuple[int, int]] | None:
    if not isinstance(config, KAP) or config.pool is None:
        return None
    kernels = [
        np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "kernel" and leaf.ndim == 4 and leaf.shape[2] in (1, 3)
    ]
    if not kernels:
        return None
    return kernels[0], config.pool.grid(kernels[0].shape[-1])
