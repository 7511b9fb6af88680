"""Interval bound propagation (IBP): training on the worst logits that bounds allow in a ball.

Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust
Models", arXiv 1810.12715, 2018. With z the logits of x and z' the worst ones that intervals allow
in the ball of radius eps around it, the ball cut to valid pixels, the loss is (section 3)

    kappa CE(z, y) + (1 - kappa) CE(z', y)

z'_y - z'_c is the lower bound of that difference: intervals end before the last linear layer, whose
rows are subtracted first ("elision of the last layer"; `certify.interval_margins`). Gradients flow
through the bounds. In training eps is 0 and kappa 1 for `warmup_steps`; over the next `ramp_steps`
eps grows to its value and kappa falls to its own, both in proportion to the step.

Sources of the defaults: the authors' code for MNIST: kappa .5, 2,000 steps of warm-up and 10,000 of
ramp. It trains at a larger eps than it certifies (.33 for .3).

The loss is that of the network as it is in training, so of one without BatchNorm, whose statistics
depend on the batch and which intervals do not bound, and without anything random in training:
bounds for one draw are no certificate of what is deployed. Both are refused where the method is
made. What draws in prediction alone is not: no certificate by bounds is given of it, and
`certified_accuracy` is then of the network without.

A step takes one pass for the clean loss and two for the bounds (centre and radius of each box): of
100 images of MNIST and `SMALL`, on a CPU core, 91 ms against 24 of a clean one.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import checks
from robust_jax.certify import interval_margins
from robust_jax.methods.network import NetworkMethod
from robust_jax.methods.runs import Member, cross_entropy
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.models import CNNConfig, NetworkConfig

SMALL = CNNConfig(
    widths=(16, 32),
    strides=(2, 1),
    kernel_size=4,
    conv_bias=True,
    norm=False,
    positions=13,
    hidden=(100,),
)
"""The paper's small network for 28 x 28 images, with a pixel of zeros around each activation."""


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """The radius, the weight, and how they are reached.

    Attributes:
        eps: radius of the Linf ball after the ramp, in pixel units; the ball is cut to [0, 1].
        kappa: weight of the clean cross-entropy after the ramp.
        warmup_steps: of training on clean images alone.
        ramp_steps: that take eps from 0 and kappa from 1; 0 for none.
    """

    eps: float = 0.1
    kappa: float = 0.5
    warmup_steps: int = 2000
    ramp_steps: int = 10_000


@dataclasses.dataclass(frozen=True)
class WorstCase(_Symbols, Term):
    """(1 - kappa) times what the worst logits add to the members' clean cross-entropies.

    Beside `CrossEntropy` of the same reduction it makes the paper's loss.

    Reports `eps` and `kappa` of the step, `worst_cross_entropy` (over members as the loss) and
    `certified_accuracy`, the share of images (a mean over members) that keep their label at the
    step's eps.

    Attributes:
        of: "sum" over members, each trained as it would be alone, or "mean".

    References:
        Gowal et al., arXiv 1810.12715, 2018, section 3.

    Example:
        >>> from robust_jax.methods import WorstCase
        >>> term = WorstCase(eps=0.3, kappa=0.5, warmup_steps=2000, ramp_steps=10_000)
        >>> [tuple(round(float(one), 3) for one in term.at(step)) for step in (0, 7000, 12_000)]
        [(0.0, 1.0), (0.15, 0.75), (0.3, 0.5)]
    """

    one_by_one: ClassVar[bool] = True
    tried: ClassVar[bool] = True
    moves_images: ClassVar[bool] = True

    of: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "eps", "warmup_steps", "ramp_steps")
        checks.shares(self, "kappa")
        checks.one_of(self, "of", ("sum", "mean"))

    def at(self, step: Int[Array, ""] | int) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns eps and kappa of a step of training, which is numbered from 0."""
        done = jnp.asarray(step) - self.warmup_steps + int(self.ramp_steps == 0)
        share = jnp.clip(done.astype(jnp.float32) / max(self.ramp_steps, 1), 0, 1)
        return self.eps * share, 1 - (1 - self.kappa) * share

    def __call__(self, passed: Pass) -> Value:
        """Returns the weighted excess of the worst case."""
        eps, kappa = self.at(passed.step)
        images, labels = passed.batch.image, passed.labels
        lower, upper = jnp.clip(images - eps, 0, 1), jnp.clip(images + eps, 0, 1)

        def worst(one: Member) -> tuple[Array, Array]:
            if one.key is not None:
                raise ValueError(
                    "Expected terms=WorstCase of a network that draws nothing in training: a bound "
                    "of one draw is none of what is deployed."
                )
            try:
                margins = interval_margins(lambda x: one.train({}, x)[0], lower, upper, labels)
            except ValueError as error:
                raise ValueError(
                    f"Expected terms=WorstCase of a network that intervals bound (without "
                    f"BatchNorm, in float32): {error}"
                ) from error
            crossed = cross_entropy(-margins, labels, passed.label_smoothing)
            own = jax.nn.one_hot(labels, margins.shape[-1], dtype=bool)
            return crossed, jnp.mean(jnp.all(own | (margins > 0), axis=-1))

        crossed, certified = passed.over_members(worst, passed.variables)
        reduce = jnp.sum if self.of == "sum" else jnp.mean
        clean, bounded = reduce(passed.losses), reduce(crossed)
        report = {
            "eps": eps,
            "kappa": kappa,
            "worst_cross_entropy": bounded,
            "certified_accuracy": jnp.mean(certified),
        }
        return Value((1 - kappa) * (bounded - clean), report)


@dataclasses.dataclass(frozen=True)
class IBP(_Symbols, NetworkMethod):
    """A network trained by interval bound propagation, each member of an ensemble for itself.

    With z the logits and z' the worst ones that intervals allow in the ball, the loss is ::

        kappa CE(z, y) + (1 - kappa) CE(z', y)

    Views: those of `network_method`.

    The loss reports `accuracy` and `cross_entropy` (clean), `worst_cross_entropy`,
    `certified_accuracy` by intervals, and the step's `eps` and `kappa`.

    Attributes:
        network: without BatchNorm.
        eps: radius of the Linf ball after the ramp, pixels in [0, 1].
        kappa: weight of the clean cross-entropy after the ramp; 1 - kappa is that of the bound's.
        warmup_steps: of training on clean images alone.
        ramp_steps: that take eps from 0 and kappa from 1; 0 for none.

    Fields beside these are those of `MethodConfig`.

    References:
        Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably
        Robust Models", arXiv 1810.12715, 2018, section 3.

    Example:
        >>> from robust_jax.methods import IBP
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> [type(term).__name__ for term in IBP(eps=0.3).all_terms]
        ['CrossEntropy', 'WorstCase']
        >>> IBP(CNNConfig(widths=(4,), strides=(2,))).make(Task((8, 8, 1), 10, 1000))
        Traceback (most recent call last):
            ...
        ValueError: Expected terms=WorstCase of a network that intervals bound (without ...
    """

    network: NetworkConfig = SMALL

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the clean cross-entropy, and what the worst case adds to it."""
        return (*super().own_terms, self.part(WorstCase))
