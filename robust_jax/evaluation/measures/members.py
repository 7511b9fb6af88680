"""Measures of ensembles: are members wrong together, and do they follow the same gradients?"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from robust_jax import analysis, metrics, rng
from robust_jax.attacks import PGD, ThreatModel, losses
from robust_jax.evaluation.measures.base import (
    Found,
    Measure,
    Subject,
    lacks_members,
    lacks_networks,
    member_names,
)
from robust_jax.runtime.wording import percent


@dataclasses.dataclass(frozen=True)
class Agreement(Measure):
    """Are members right on the same clean images? Interrater agreement and entropy E.

    Attributes:
        view: "members", or of a random method one that is a single draw, of which
        num_draws: fresh ones are the members.
        networks_only: do not ask where members are draws of one network, or its layers.
        num_repeats: times that a random method is asked under fresh keys; the mean and the standard
            deviation over them are reported.

    References:
        Table 5 of the random layer sampling paper (ten draws, ten repeats); table 1 of the LPD
        paper.

    Example:
        >>> from robust_jax.evaluation import Model
        >>> from robust_jax.evaluation.measures import Agreement, Subject
        >>> def members(images):  # one sees the first pair of channels, one the second
        ...     return jnp.stack([images[:, 0, 0, :2], images[:, 0, 0, 2:]])
        >>> model = Model.of(lambda images: members(images)[0], num_classes=2, members=members)
        >>> images = jnp.array([[1.0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 0]])
        >>> subject = Subject(
        ...     model.method, None, model.variables, images[:, None, None], jnp.array([0, 0, 1, 1]),
        ...     class_names=("a", "b"), key=jax.random.key(0), batch_size=4,
        ... )
        >>> Agreement()(subject).numbers["accuracy"]  # by member
        [1.0, 0.5]
    """

    section: ClassVar[str] = "Members of the ensemble"

    view: str = "members"
    num_draws: int | None = None
    networks_only: bool = False
    num_repeats: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that make no sense."""
        super().__post_init__()
        if self.num_repeats < 1:
            raise ValueError(f"Expected num_repeats={self.num_repeats} >= 1.")
        if self.num_draws is not None and self.num_draws < 2:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 2.")
        if (self.view == "members") != (self.num_draws is None):
            raise ValueError(
                f"Expected num_draws={self.num_draws} of view={self.view!r}: draws of a view other "
                "than 'members', and of no other none."
            )

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: two members, or randomness."""
        if self.num_draws is None:
            return lacks_networks(subject) if self.networks_only else lacks_members(subject)
        if not subject.method.stochastic:
            return "randomness"
        subject.method.view(self.view)  # raises where there is none
        return None

    def __call__(self, subject: Subject) -> Found:
        """Returns clean accuracies, agreement and entropy."""
        accuracy, agreement, entropy = [], [], []
        for repeat in range(self.num_repeats):
            key = rng.stream(subject.key, "members", repeat)
            right = self._decisions(subject, key) == subject.labels[None]
            accuracy.append(np.asarray(jnp.mean(right, axis=1)))
            agreement.append(float(metrics.interrater_agreement(right)))
            entropy.append(float(analysis.entropy(right)))
        each = np.mean(accuracy, axis=0).tolist()
        spread = {
            "interrater_agreement": _mean_and_deviation(agreement),
            "entropy": _mean_and_deviation(entropy),
        }
        kappa, evenness = (
            f"{one['mean']:.3f}"
            + (f" ± {one['deviation']:.3f}" if one["deviation"] is not None else "")
            for one in spread.values()
        )
        about = f"Members on {len(subject.images)} clean images."
        lines = (
            ("clean accuracy", ", ".join(map(percent, each))),
            ("interrater agreement", f"{kappa} <small>1: right on the same images</small>"),
            ("entropy E", f"{evenness} <small>0: all agree</small>"),
        )
        return Found(self.section, {"accuracy": each, **spread}, lines, about=about)

    def _decisions(self, subject: Subject, key: Key[Array, ""]) -> Int[Array, "m b"]:
        if self.num_draws is None:
            scores = subject.ask(self.view, subject.images, key=key, axis=1)
            return losses.decided(scores)
        draws = [
            subject.ask(self.view, subject.images, key=rng.stream(key, "draw", number))
            for number in range(self.num_draws)
        ]
        return jnp.stack([losses.decided(scores) for scores in draws])


def _mean_and_deviation(values: list[float]) -> dict[str, float | None]:
    """Returns both; of one value there is no deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation}


@dataclasses.dataclass(frozen=True)
class Gradients(Measure):
    """Do members' losses have the same gradients? Quartiles of L_d and L_s.

    Attributes:
        losses: whose gradients; "margin" and "dlr" do not vanish where a member is sure.
        num_pictures: images whose gradients are drawn, with their cosines.
        networks_only: do not ask where members are draws of one network, or its layers.

    References:
        Tables 2 and 3 of the LPD paper (2,000 images); figure 1 of PARL's.

    Example:
        >>> from robust_jax.evaluation.measures import Gradients
        >>> lpd = Gradients(num_examples=2000, losses=("cross_entropy",))  # tables 2 and 3
        >>> lpd.reduced().num_examples, lpd.section
        (64, 'Members of the ensemble')
    """

    section: ClassVar[str] = "Members of the ensemble"

    losses: tuple[Literal["cross_entropy", "margin", "dlr"], ...] = ("cross_entropy", "margin")
    num_pictures: int = 0
    networks_only: bool = False

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: two members."""
        return lacks_networks(subject) if self.networks_only else lacks_members(subject)

    def __call__(self, subject: Subject) -> Found:
        """Returns the quartiles, by loss, and the shares of zero gradients."""
        numbers, lines, figures = {}, [], []
        for loss in self.losses:
            gradients = self._of_members(subject, loss)
            statistics = analysis.gradient_statistics(gradients)
            quartiles = analysis.summarize_gradients(statistics)
            numbers[loss] = quartiles
            title = loss.replace("_", "-")
            low, middle, high = quartiles["L_d"]
            cosines = f"{middle:.3g} <small>{low:.3g} to {high:.3g}</small>"
            lines.append((f"L<sub>d</sub>, {title}", cosines))
            low, middle, high = quartiles["L_s"]
            zero = ", ".join(map(percent, quartiles["zero_share"]))
            lines.append((f"L<sub>s</sub>, {title}",
                          f"{middle:.3g} <small>{low:.3g} to {high:.3g}; zero gradients: {zero}"
                          "</small>"))  # fmt: skip
            for number in range(min(self.num_pictures, len(subject.images))):
                figure = analysis.gradient_pictures(
                    np.asarray(subject.images[number]),
                    np.asarray(gradients[:, number]),
                    member_names(len(gradients)),
                )
                name = subject.class_names[int(subject.labels[number])]
                words = f"Gradients of the members' {title} at an image of {name}, their cosines."
                figures.append((figure, words))
        about = (
            f"L<sub>d</sub>, on {len(subject.images)} images: sum over pairs of members of the "
            "cosine of their losses' gradients; L<sub>s</sub>: sum of the gradients' norms "
            "(median, quartiles)."
        )
        return Found(self.section, numbers, tuple(lines), tuple(figures), about)

    def _of_members(self, subject: Subject, loss: str) -> Float[Array, "m b h w k"]:
        key, members = rng.stream(subject.key, "gradients"), subject.view("members")
        batches = [
            analysis.member_gradients(
                members, subject.images[part], subject.labels[part], key=key, loss=loss
            )
            for part in subject.batches()
        ]
        return jnp.concatenate(batches, axis=1)


@dataclasses.dataclass(frozen=True)
class MemberTransfer(Measure):
    """Do examples made for one member fool the others? PGD-10 of each, judged by all and the vote.

    Attributes:
        threat: ball of the examples.

    References:
        Figure 3 of Yang et al., "DVERGE", 2020.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> from robust_jax.evaluation.measures import MemberTransfer
        >>> MemberTransfer(threat=ThreatModel("linf", eps=0.03), num_examples=1000).threat.eps
        0.03
    """

    section: ClassVar[str] = "Members of the ensemble"

    threat: ThreatModel = ThreatModel("linf", 0.01)

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: members that are networks."""
        return lacks_networks(subject)

    def __call__(self, subject: Subject) -> Found:
        """Returns the accuracies [member attacked, member judging and last the vote]."""
        members, parts = subject.view("members"), []
        num_members = subject.shape_of("members")[0]
        assert subject.config is not None  # functions have no networks
        for part in subject.batches():
            sent = analysis.transfer(
                PGD(self.threat, num_steps=10),
                analysis.member_views(members, num_members),
                members,
                subject.images[part],
                subject.labels[part],
                key=rng.stream(subject.key, "transfer"),
                vote=subject.config.vote,
                index=jnp.arange(len(subject.images), dtype=jnp.int32)[part],
            )
            parts.append(jnp.concatenate([sent.members, sent.ensemble[:, None]], axis=1))
        accuracy = np.asarray(jnp.mean(jnp.concatenate(parts, axis=-1), axis=-1))
        names = member_names(num_members)
        figure = analysis.heat_map(
            accuracy,
            names,
            [*names, "vote"],
            label="accuracy",
            row_label="examples made for",
            column_label="judged by",
            percent=True,
        )
        words = f"PGD-10 on one member, judged by the others ({self.threat})."
        return Found(self.section, {"accuracy": accuracy.tolist()}, (), ((figure, words),))


@dataclasses.dataclass(frozen=True)
class LayerSimilarity(Measure):
    """Are members' layers alike? Linear CKA of every two members, layer by layer.

    Attributes:
        debiased: draw the estimate whose value does not grow as images become fewer than features;
            the paper's is the other. summary.json has both.
        layers: names of taps; empty for all.

    References:
        Figures 2 and 6 of PARL's paper.

    Example:
        >>> from robust_jax.evaluation.measures import LayerSimilarity
        >>> LayerSimilarity(layers=("00.conv1", "01.conv2"), num_examples=512).debiased
        True
    """

    section: ClassVar[str] = "Members of the ensemble"

    debiased: bool = True
    layers: tuple[str, ...] = ()

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: members that are networks."""
        return lacks_networks(subject)

    def __call__(self, subject: Subject) -> Found:
        """Returns the curves, and their means over layers."""
        alike = analysis.similarity(
            subject.taps,
            [subject.images[part] for part in subject.batches()],
            key=rng.stream(subject.key, "similarity"),
            layers=self.layers,
        )
        num_members = subject.shape_of("members")[0]
        pairs = [(i, j) for i in range(num_members) for j in range(i + 1, num_members)]

        def curves(debiased: bool) -> dict[str, dict[str, float]]:
            return {
                f"{i + 1} and {j + 1}": alike.between(i, j, debiased=debiased) for i, j in pairs
            }

        kind = "linear CKA, debiased" if self.debiased else "linear CKA"
        figure = analysis.similarity_curves(curves(self.debiased), label=kind)
        numbers = {"cka": curves(False), "debiased": curves(True)}
        return Found(self.section, numbers, (), ((figure, "Similarity of the members' layers."),))
