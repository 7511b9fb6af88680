"""MIM, and what makes its images carry over to models that it does not see.

One attack with a field for each idea, since papers use them together; the order is that of their
code: a step ahead (NI), copies of the image transformed (DI) and scaled (SI), the variance of the
last step (VMI), a blur (TI), the running sum (MI). Sources are averaged by `views.ensemble`; a
ResNet's skip gradients are a view of its method. Out of scope are the other some dozen transfer
attacks (Admix, SSA, PIM, FIA, NAA, EMI, RAP, generators and the like): collections of them exist
(TransferAttack, BlackboxBench, torchattack), and an evaluation needs a strong one, not each.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import FixedSteps
from robust_jax.attacks.checks import (
    check_counts,
    check_height_and_width,
    check_nonnegative,
    check_positive,
)
from robust_jax.attacks.runs import Found, Given, Number, Path, Run
from robust_jax.attacks.threat import ThreatModel, expand, unit_l2
from robust_jax.types import Images, Index, KeyArray, View


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiverseView:
    """A view of images that are shrunk and moved at random, each by draws of its own."""

    view: View
    index: Index
    probability: float = dataclasses.field(metadata={"static": True})
    smallest: float = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: Key[Array, ""]) -> Float[Array, "*s b c"]:
        """Returns the logits of the transformed images."""
        height, width, num_channels = images.shape[1:]
        dtype = images.dtype

        def change(image, key):
            draws = jax.random.uniform(key, (4,), dtype)
            scale = self.smallest + (1 - self.smallest) * draws[0]
            room = (1 - scale) * jnp.asarray([height, width], dtype)
            shrunk = jax.image.scale_and_translate(
                image,
                (height, width, num_channels),
                (0, 1),
                jnp.stack([scale, scale]),
                room * draws[1:3],
                "linear",
                antialias=False,
            )
            return jnp.where(draws[3] < self.probability, shrunk, image)

        keys = rng.per_example(rng.stream(key, "diverse"), self.index)
        return self.view(jax.vmap(change)(images, keys), key=rng.stream(key, "view"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaledView:
    """A view of images times a number."""

    view: View
    scale: Float[Array, ""]

    def __call__(self, images: Array, *, key: Key[Array, ""]) -> Float[Array, "*s b c"]:
        """Returns the logits of the scaled images."""
        return self.view(self.scale * images, key=key)


def blurred(images: Float[Array, "b h w k"], size: int) -> Float[Array, "b h w k"]:
    """Returns images under a Gaussian kernel of a side of `size` pixels, zero beyond the edge.

    Its standard deviation is a sixth of the distance of its outermost pixels.
    """

    def along(length: int) -> Array:
        # Row i has the kernel around i; what reaches beyond the edge is left out.
        offset = np.abs(np.arange(length)[:, None] - np.arange(length)[None])
        row = np.exp(-0.5 * (np.arange(size) - size // 2) ** 2 / ((size - 1) / 6) ** 2)
        weight = np.exp(-0.5 * offset**2 / ((size - 1) / 6) ** 2) / row.sum()
        return jnp.asarray(np.where(offset <= size // 2, weight, 0), images.dtype)

    rows, columns = along(images.shape[1]), along(images.shape[2])
    exact = functools.partial(jnp.einsum, precision="highest")
    return exact("ij,vw,bjwk->bivk", rows, columns, images)


@dataclasses.dataclass(frozen=True)
class MIM(FixedSteps):
    """BIM along a running sum of gradients, each divided by its mean absolute value.

    CleverHans divides by the mean, the paper by the sum of absolute values: the sum differs by a
    factor, and the steps not at all. Whether the end is a success is asked of the view itself,
    whatever the gradients are taken of.

    Attributes:
        threat: the ball.
        loss: what is raised (targeted: lowered); "kl": away from the clean image's prediction.
        targeted: are the labels classes to reach, not to leave?
        num_steps: number of steps.
        step_size: length of a step; None is eps / num_steps.
        decay: what is left of the sum at each step (mu).
        nesterov: is the gradient taken a step ahead along the sum (NI)?
        num_scales: copies of the image, the i-th divided by 2^i, whose gradients are averaged (SI;
            m, 5 in the paper); 1 for the image alone.
        kernel_size: side of a Gaussian kernel that blurs gradients (TI; odd, 15 in the paper for
            images of 299 pixels), as if those of moved images were averaged; 1 for none.
        num_neighbours: draws around the image (VMI; N, 20 in the paper). By how much their mean
            gradient differs from the image's is added to the gradient of the next step; 0 for none.
        neighbourhood: radius of their ball, as a multiple of eps (beta).
        probability: share of gradients at an image that is shrunk, moved and padded at random (DI);
            None for none.
        smallest: least size of such an image, as a share.

    Raises:
        ValueError: counts or the step size are not positive, the kernel is even, or a share is not
            in [0, 1].

    Example:
        >>> from robust_jax.attacks import MIM, ThreatModel, as_view
        >>> source = as_view(lambda images: images)  # two pixels, two classes
        >>> target = as_view(lambda images: images @ jnp.asarray([[5.0, 0.0], [1.0, 6.0]]))
        >>> images, labels = jnp.asarray([[0.7, 0.5]]), jnp.asarray([0])
        >>> attack = MIM(ThreatModel("linf", eps=0.125), decay=1.0)
        >>> adversarial = attack(source, images, labels, key=jax.random.key(0))
        >>> [target(each, key=None).argmax(1).item() for each in (images, adversarial)]
        [0, 1]

    References:
        Dong et al., "Boosting adversarial attacks with momentum", 2018.
        Xie et al., "Improving transferability of adversarial examples with input diversity", 2019
        (DI; there images grow, here they shrink, so that networks of fixed size can be attacked).
        Dong et al., "Evading defenses to transferable adversarial examples by translation-invariant
        attacks", 2019 (TI, equation 8).
        Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks",
        2020 (NI and SI, algorithm 1).
        Wang, He, "Enhancing the transferability of adversarial attacks through variance tuning",
        2021 (VMI, algorithm 1).
    """

    in_steps: ClassVar[bool] = True

    num_steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    nesterov: bool = False
    num_scales: int = 1
    kernel_size: int = 1
    num_neighbours: int = 0
    neighbourhood: float = 1.5
    probability: float | None = None
    smallest: float = 0.9

    def __post_init__(self) -> None:
        """Raises ValueError for steps, shares or a kernel that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps", "num_scales", "kernel_size")
        check_positive(self, "step_size")
        check_nonnegative(self, "decay", "num_neighbours", "neighbourhood")
        if not self.kernel_size % 2:
            raise ValueError(f"Expected kernel_size={self.kernel_size} to be odd.")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"Expected probability={self.probability} in [0, 1].")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"Expected smallest={self.smallest} in (0, 1].")

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError unless images that are transformed or blurred are [b h w k]."""
        super().check(images)
        if self.probability is not None or self.kernel_size > 1:
            check_height_and_width(images)

    def reduced(self) -> "MIM":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_scales=3, num_neighbours=5)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of the steps."""
        view, images, labels, key, index, _ = given
        seen = view
        if self.probability is not None:
            seen = DiverseView(view, index, self.probability, self.smallest)
        loss_fn = self.loss_fn(view, images, key=key)
        root = rng.stream(key, "view", run.number)
        length = self.length

        def judge(points: Images, view: View, key: KeyArray) -> Found:
            values, logits = losses.evaluate(loss_fn, view, points, labels, key=key)
            return Found(points, self.succeeded(logits, labels), values)

        def gradient_at(points: Images, root: KeyArray, number: Number) -> tuple[Images, Found]:
            """Returns the mean gradient of the scales, and what is found of the whole image."""
            gradient, values, logits = losses.gradient(
                loss_fn, seen, points, labels, key=rng.stream(root, "step", number)
            )

            def with_scale(scale, total):
                shrunk = ScaledView(seen, jnp.exp2(-scale.astype(points.dtype)))
                view_key = rng.stream(root, "scale", number, scale)
                return total + losses.gradient(loss_fn, shrunk, points, labels, key=view_key)[0]

            if self.num_scales > 1:
                gradient = jax.lax.fori_loop(1, self.num_scales, with_scale, gradient)
                gradient = gradient / self.num_scales
            return gradient, Found(points, self.succeeded(logits, labels), values)

        def variance(points: Images, gradient: Images, number: Number) -> Images:
            """Returns by how much the mean gradient around the points differs from theirs."""
            ball = ThreatModel(self.threat.norm, 1.0, (-1.0, 1.0))
            radius = self.neighbourhood * self.threat.eps

            def with_neighbour(neighbour, total):
                draw = rng.stream(root, "around", number, neighbour)
                offset = ball.sample(jnp.zeros_like(images), rng.per_example(draw, index))
                there = rng.stream(root, "neighbour", number, neighbour)
                return total + gradient_at(points + radius * offset, there, 0)[0]

            nothing = jnp.zeros_like(images)
            total = jax.lax.fori_loop(0, self.num_neighbours, with_neighbour, nothing)
            return total / self.num_neighbours - gradient

        def step(number, carry):
            points, momentum, tuning, path = carry
            ahead = points
            if self.nesterov:
                towards = momentum if self.threat.norm == "linf" else unit_l2(momentum)
                ahead = points + self.decay * length * towards
            gradient, here = gradient_at(ahead, root, number)
            if path is not None:
                if self.nesterov:
                    here = judge(points, seen, rng.stream(root, "path", number))
                path = path.noted(number, here.loss, here.success)
            direction = gradient
            if tuning is not None:
                direction = gradient + tuning
                tuning = variance(points, gradient, number)
            if self.kernel_size > 1:
                direction = blurred(direction, self.kernel_size)
            size = jnp.mean(jnp.abs(direction.reshape(direction.shape[0], -1)), axis=1)
            direction = direction / expand(jnp.where(size > 0, size, 1), direction)
            momentum = self.decay * momentum + direction
            points = self.threat.project(self.threat.ascend(points, momentum, length), images)
            return points, momentum, tuning, path

        path = None
        if run.watched:
            path = Path.empty(self.num_steps, jax.eval_shape(lambda: judge(images, seen, key).loss))
        still = jnp.zeros_like(images)
        start = images, still, still if self.num_neighbours else None, path
        points, _, _, path = jax.lax.fori_loop(0, self.num_steps, step, start)
        # Where only the images are asked for, XLA leaves this pass out.
        end = judge(points, view, rng.stream(root, "end"))
        if path is not None:
            path = path.noted(self.num_steps, end.loss, end.success)
        return end._replace(path=path)


@dataclasses.dataclass(frozen=True)
class MDI2FGSM(MIM):
    """MIM whose every gradient is taken at an image shrunk, moved and padded at random.

    Attributes:
        probability: share of gradients at such an image; the other fields are those of `MIM`.

    Example:
        >>> from robust_jax.attacks import MDI2FGSM, MIM, ThreatModel
        >>> threat = ThreatModel("linf", eps=8 / 255)
        >>> attack = MDI2FGSM(threat, num_steps=100)  # called as `MIM`, on images [b h w k]
        >>> attack.probability, MIM(threat).probability
        (0.5, None)

    References:
        Xie et al., "Improving transferability of adversarial examples with input diversity", 2019.
    """

    probability: float | None = 0.5
