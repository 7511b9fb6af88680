"""Measures of what a network computes inside: activations, embeddings, voting layers."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Key

from robust_jax import analysis, rng
from robust_jax.attacks import Attack, losses
from robust_jax.evaluation.measures.base import Found, Measure, Subject, lacks_taps
from robust_jax.methods import REGroup
from robust_jax.models import EnsembleConfig
from robust_jax.models.base import in_network_order
from robust_jax.runtime.wording import percent, text

CLEAN = "clean"


MIN_EMBEDDED = 40
"""Fewest images worth an embedding."""


@dataclasses.dataclass(frozen=True)
class Embedding(Measure):
    """t-SNE of a layer's activations on the clean images.

    Attributes:
        layer: a tap; None for the last before the head.
        by_sign: embed, beside all activations, the sums over positions of the positive and of the
            negative parts, as REGroup has them.

    References:
        Figure 5 of REGroup's paper.

    Example:
        >>> from robust_jax.evaluation.measures import Embedding
        >>> Embedding(num_examples=500, by_sign=True).reduced().num_examples
        64
    """

    layer: str | None = None
    by_sign: bool = False

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: activations, or enough images."""
        few = len(subject.images) < MIN_EMBEDDED
        words = f"{MIN_EMBEDDED} images (it is given {len(subject.images)})" if few else None
        return lacks_taps(subject) or words

    def __call__(self, subject: Subject) -> Found:
        """Returns the picture; of an ensemble its first member's."""
        names = in_network_order(subject.shapes_of_taps())
        layer = self.layer or names[-2:][0]
        if layer not in names:
            raise ValueError(f"Expected layer={layer!r} to be one of {list(names)}.")
        key = rng.stream(subject.key, "taps")
        values = activations(subject, subject.images, (layer,), key=key)[layer][0]
        seed = int(jax.random.randint(rng.stream(subject.key, "embedding"), (), 0, 2**31 - 1))
        panels = {"all": values.reshape(len(values), -1)}
        if self.by_sign:
            flat = values.reshape(len(values), -1, values.shape[-1])
            parts = {"positive": 1, "negative": -1}
            panels |= {
                name: jnp.sum(jnp.maximum(sign * flat, 0), axis=1) for name, sign in parts.items()
            }
        perplexity = min(30.0, len(values) / 4)
        figure = analysis.embedding_scatter(
            {
                name if self.by_sign else layer: analysis.tsne(
                    features, perplexity=perplexity, seed=seed
                )
                for name, features in panels.items()
            },
            np.asarray(subject.labels),
            subject.class_names,
        )
        return Found(
            self.section, {"layer": layer}, (), ((figure, f"t-SNE of the activations of {layer}."),)
        )


def activations(
    subject: Subject, images: Array, layers: tuple[str, ...], *, key: Key[Array, ""]
) -> dict[str, Array]:
    """Returns the activations of some layers on all images, each [m b ...]."""

    def chosen(taps: analysis.TapsView, images: Array, *, key: Key[Array, ""]) -> dict[str, Array]:
        found = taps(images, key=key)
        return {layer: analysis.with_members(found[layer]) for layer in layers}

    return subject.ask(jax.tree_util.Partial(chosen, subject.taps), images, key=key, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations(Measure):
    """What perturbations do in every layer: histograms, and how far activations move.

    Attributes:
        attack: makes the adversarial images; those that it leaves as they were are not counted.
        view: what they are made on.

    References:
        Figures A4, A5 and A6 of KAP's paper.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.evaluation.measures import Activations
        >>> Activations(attack=PGD(ThreatModel("linf", 8 / 255)), view="noise_off").num_examples
        64
    """

    attack: Attack
    view: str = "deployed"

    def reduced(self) -> "Activations":
        """Returns the measure at the small budget, its attack's too."""
        return dataclasses.replace(super().reduced(), attack=self.attack.reduced())

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: activations."""
        return lacks_taps(subject)

    def __call__(self, subject: Subject) -> Found:
        """Returns the medians of the layers' relative change, and the pictures."""
        adversarial = subject.attacked(self.attack, self.view)
        moved = jnp.any(adversarial != subject.images, axis=(1, 2, 3))
        count, total = int(jnp.sum(moved)), len(subject.images)
        if count == 0:
            return Found(self.section, {"moved": 0}, (("moved images", f"0 of {total}"),))
        clean, adversarial = subject.images[moved], adversarial[moved]
        kinds = {
            CLEAN: clean,
            "noise": analysis.matched_noise(
                clean, adversarial, key=rng.stream(subject.key, "noise")
            ),
            "adversarial": adversarial,
        }
        # Under one key, or redrawn noise would be part of the change.
        key = rng.stream(subject.key, "activations")
        layers = tuple(subject.shapes_of_taps())
        taps = {
            kind: activations(subject, images, layers, key=key) for kind, images in kinds.items()
        }
        drawn = rng.stream(subject.key, "kernels")
        values = {kind: analysis.kernel_activations(tap, key=drawn) for kind, tap in taps.items()}
        changes = {
            kind: analysis.perturbations(taps[CLEAN], taps[kind]) for kind in kinds if kind != CLEAN
        }
        relative = {
            kind: {layer: change.relative for layer, change in layers.items()}
            for kind, layers in changes.items()
        }
        absolute = {
            kind: {layer: change.absolute for layer, change in layers.items()}
            for kind, layers in changes.items()
        }
        figures = (
            (analysis.layer_histograms(values), "Activations of one kernel of every layer."),
            (
                analysis.layer_histograms(absolute, label="length of the change"),
                "Euclidean length of the change of every layer's activations.",
            ),
            (
                analysis.layer_curves(relative),
                "Relative change of every layer's activations; median and quartiles.",
            ),
        )
        medians = {
            kind: {layer: float(np.nanmedian(np.asarray(one))) for layer, one in layers.items()}
            for kind, layers in relative.items()
        }
        numbers = {"moved": count, "relative_change": medians}
        return Found(self.section, numbers, (("moved images", f"{count} of {total}"),), figures)


@dataclasses.dataclass(frozen=True)
class VotingLayers(Measure):
    """REGroup's accuracy by the number of voting layers, by layer, and by sign of the responses.

    Fit all layers with both signs to see all of them (`regroup_cifar10:all_layers`).

    Attributes:
        attacks: by name; made on a view and judged by parts of the voters.
        view: what they are made on.
        of: the images that count under attack: "all", or the "successes", those alone that the
            view then takes for another class, as REGroup's paper counts.

    References:
        Figures 3, 4 and 6 of REGroup's paper.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.evaluation.measures import VotingLayers
        >>> VotingLayers(attacks={"pgd": PGD(ThreatModel("linf", 4 / 255))}, of="successes").section
        'Layers that vote'
    """

    section: ClassVar[str] = "Layers that vote"

    attacks: dict[str, Attack] = dataclasses.field(default_factory=dict)
    view: str = "surrogate"
    of: Literal["all", "successes"] = "all"

    def reduced(self) -> "VotingLayers":
        """Returns the measure at the small budget, its attacks' too."""
        attacks = {name: attack.reduced() for name, attack in self.attacks.items()}
        return dataclasses.replace(super().reduced(), attacks=attacks)

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: REGroup of a single network, with both responses."""
        if not isinstance(subject.config, REGroup) or subject.config.responses != "both":
            return "REGroup's positive and negative responses"
        several = isinstance(subject.config.network, EnsembleConfig)
        return "a single network, whose voters are layers" if several else None

    def __call__(self, subject: Subject) -> Found:
        """Returns the accuracies of all voters by sign, and the curves over k."""
        if isinstance(subject.images, Tracer):  # all attacks, before the first number is asked for
            for attack in self.attacks.values():
                next(subject.attacked_parts(attack, self.view))
        signs, depths, layers = {}, {}, {}
        for name, attack in {CLEAN: None, **self.attacks}.items():
            by_sign = self._votes_by_sign(subject, attack)
            signs[name] = {sign: votes.by_depth[-1] for sign, votes in by_sign.items()}
            depths[name], layers[name] = by_sign["both"]
        shown = {name: votes for name, votes in signs.items() if votes["both"].size}
        figures = (
            (analysis.accuracy_bars(shown), "Accuracy by the sign of the responses that vote."),
            (
                analysis.accuracy_by_layers(
                    {name: depths[name] for name in shown}, {CLEAN: layers[CLEAN]}, threshold=0.75
                ),
                "Accuracy against the number of voting layers, and of each layer alone.",
            ),
        )
        numbers = {
            name: {
                "count": signs[name]["both"].size,
                "by_sign": {sign: float(right.mean()) for sign, right in signs[name].items()},
                "by_depth": depths[name].mean(axis=1).tolist(),
                "by_layer": layers[name].mean(axis=1).tolist(),
            }
            for name in shown
        }
        numbers |= {name: {"count": 0} for name in signs if name not in shown}
        lines = tuple(
            (
                text(name),
                ", ".join(f"{sign} {percent(share)}" for sign, share in by_sign.items())
                + f" of {numbers[name]['count']} images",
            )
            for name in signs
            for by_sign in [numbers[name].get("by_sign", {"all": None})]
        )
        about = "Under attack the images alone count that it turned wrong."
        about = about if self.of == "successes" else ""
        return Found(self.section, numbers, lines, figures, about)

    def _votes_by_sign(
        self, subject: Subject, attack: Attack | None
    ) -> Mapping[str, analysis.LayerVotes]:
        """Returns by sign `LayerVotes` of the images that count, batch by batch."""
        clean = (subject.images[part] for part in subject.batches())
        images = clean if attack is None else subject.attacked_parts(attack, self.view)
        signs: dict[str, list[analysis.LayerVotes]] = {"positive": [], "negative": [], "both": []}
        for part, each in zip(subject.batches(), images, strict=True):
            labels = subject.labels[part]
            counts = np.ones(len(labels), bool)
            if attack is not None and self.of == "successes":
                logits = subject.ask(self.view, each, key=subject.key)
                counts = np.asarray(losses.decided(logits) != labels)
            scores = subject.ask("members", each, key=subject.key, axis=1)
            for sign, votes in signs.items():
                votes.append(
                    jax.tree.map(
                        lambda right, counts=counts: np.asarray(right)[:, counts],
                        analysis.layer_votes(scores, labels, signs=sign),
                    )
                )
        return {
            sign: jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *votes)
            for sign, votes in signs.items()
        }
