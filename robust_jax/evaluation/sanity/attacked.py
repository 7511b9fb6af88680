"""The probe's own attacks on a view: PGD of every loss and length, Square, noise.

Of a view that does not draw only the images are attacked that a check asks about: those that still
stand. It says the same as on all of them, in a batch of a quarter of the size where so few do.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import PGD, Square, ThreatModel, bind, eot, losses
from robust_jax.attacks.bounded import start_keys
from robust_jax.attacks.pgd import climb
from robust_jax.attacks.runs import Given, Run
from robust_jax.attacks.threat import Norm, expand, unit_l2
from robust_jax.methods.base import MethodView
from robust_jax.runtime.compilation import jitted
from robust_jax.types import Variables, View

NUM_STEPS = 20
"""Steps of the probe's PGD; the referee of more steps has twice as many."""

NUM_QUERIES = 500
"""Queries of Square."""

NUM_NOISES = 20
"""Draws of random signs."""

NUM_DIRECTIONS = 8
"""Random directions along which a gradient is to predict the loss."""

NUM_DRAWS = 4
"""Predictions of a random view that decide, averaged, under the same draws for every attack.

The attacks take one fresh draw at every step.
"""

LOSSES = ("cross_entropy", "margin", "dlr")


class AttackedView:
    """A view that an evaluation attacks, and the images that the probe attacks it on.

    What stands is by the word of the view itself.
    """

    def __init__(
        self,
        name: str,
        method_view: MethodView,
        variables: Variables,
        images: Float[Array, "b h w k"],
        labels: Int[Array, " b"],
        *,
        stochastic: bool,
        key: Key[Array, ""],
    ) -> None:
        self.name, self.images, self.labels, self.key = name, images, labels, key
        self.view: View = bind(method_view, variables)
        ask = jitted(_decided_logits)
        keys = [rng.stream(key, "view", number) for number in (0, 1)]
        logits, again = (ask(self.view, images, key) for key in keys)
        self.random = stochastic and bool(jnp.any(logits != again))
        judged = eot(self.view, NUM_DRAWS) if self.random else self.view
        self._decided = functools.partial(jitted(_stands), judged)
        self._stood: dict[tuple[object, ...], Bool[np.ndarray, " b"]] = {}
        self._sizes = (-(-len(images) // 4), len(images))
        self._climb = jitted(_adversarial, static_argnames=("norm", "bounds", "num_classes"))
        self.num_classes = logits.shape[-1]
        # Half of the margins are larger: a scale that leaves no softmax saturated.
        self.scale = float(jnp.median(jnp.abs(losses.margin(logits, labels)))) or 1.0

    def standing(self, images: Array) -> Bool[np.ndarray, " b"]:
        """Returns which images the view has right."""
        return np.asarray(self._decided(images, self.labels, rng.stream(self.key, "judge")))

    def _standing_under(
        self,
        attack: Callable[[Array, Array, Array], Array],
        among: Bool[np.ndarray, " b"] | None,
    ) -> Bool[np.ndarray, " b"]:
        """Returns which images stand under an attack on images, labels and their numbers.

        Args:
            attack: returns the adversarial images.
            among: the images that are asked about; of the others it says False where the view
                does not draw. None for all.
        """
        if among is None or self.random:
            among = np.ones(len(self.images), bool)
        rows, stands = np.flatnonzero(among), np.zeros(len(among), bool)
        if len(rows):
            # Few sizes, few programs: what is missing is filled by images that are there.
            index = np.resize(rows, next(size for size in self._sizes if size >= len(rows)))
            labels = self.labels[index]
            found = attack(self.images[index], labels, jnp.asarray(index))
            decided = self._decided(found, labels, rng.stream(self.key, "judge"))
            stands[rows] = np.asarray(decided)[: len(rows)]
        return stands

    def pgd(
        self,
        threat: ThreatModel,
        *,
        loss: str = "cross_entropy",
        num_steps: int = NUM_STEPS,
        relative_step: float | None = None,
        scale: float = 1.0,
        start: int = 0,
        among: Bool[np.ndarray, " b"] | None = None,
    ) -> Bool[np.ndarray, " b"]:
        """Returns which images stand under PGD, one program for every radius, loss and length.

        Args:
            threat: the ball.
            loss: what is raised.
            num_steps: number of steps.
            relative_step: length of a step as a share of eps; None is 2.5 / num_steps.
            scale: what the logits are divided by.
            start: number of the random start.
            among: the images that are asked about, see `_standing_under`.
        """
        relative_step = 2.5 / num_steps if relative_step is None else relative_step
        step_size, dtype = relative_step * threat.eps, self.images.dtype
        asked = threat, loss, num_steps, step_size, scale, start
        if asked in self._stood:
            whole = self._stood[asked]
            return whole if among is None or self.random else whole & among

        def attack(images: Array, labels: Array, index: Array) -> Array:
            return self._climb(
                self.view,
                images,
                labels,
                index,
                jnp.asarray(threat.eps, dtype),
                jnp.asarray(step_size, dtype),
                jnp.asarray(scale, dtype),
                LOSSES.index(loss),
                num_steps,
                rng.stream(self.key, "attack", start),
                norm=threat.norm,
                bounds=threat.bounds,
                num_classes=self.num_classes,
            )

        stands = self._standing_under(attack, among)
        if among is None or self.random:
            self._stood[asked] = stands
        return stands

    def square(
        self, threat: ThreatModel, among: Bool[np.ndarray, " b"] | None = None
    ) -> Bool[np.ndarray, " b"]:
        """Returns which images stand under Square; `among` is as of `pgd`."""
        attack, key = Square(threat, num_queries=NUM_QUERIES), rng.stream(self.key, "attack")

        def queried(images: Array, labels: Array, index: Array) -> Array:
            return jitted(_queried)(attack, self.view, images, labels, key, index)

        return self._standing_under(queried, among)

    def noise(
        self, threat: ThreatModel, among: Bool[np.ndarray, " b"] | None = None
    ) -> Bool[np.ndarray, " b"]:
        """Returns which images stand under draws of random signs on the surface of the ball.

        All images, in the same batch, whichever are asked about: they share the draws.
        """
        del among
        run = jitted(_first_that_fools, static_argnames=("norm", "bounds"))
        eps = jnp.asarray(threat.eps, self.images.dtype)
        key = rng.stream(self.key, "attack")
        found = run(
            self.view, self.images, self.labels, eps, key, norm=threat.norm, bounds=threat.bounds
        )
        return self.standing(found)

    def changes(self, threat: ThreatModel) -> tuple[np.ndarray, np.ndarray]:
        """Returns by how much the margin changes along random signs: predicted, and in truth."""
        run = jitted(_margin_changes, static_argnames=("norm", "bounds"))
        eps = jnp.asarray(threat.eps, self.images.dtype)
        key = rng.stream(self.key, "directions")
        given = self.view, self.images, self.labels, eps, key
        predicted, true = run(*given, norm=threat.norm, bounds=threat.bounds)
        return np.asarray(predicted, np.float64), np.asarray(true, np.float64)


def _decided_logits(view: View, images: Array, key: Key[Array, ""]) -> Array:
    return losses.decision(view(images, key=key))


def _stands(view: View, images: Array, labels: Array, key: Key[Array, ""]) -> Array:
    return ~losses.misclassified(_decided_logits(view, images, key), labels)


def _queried(
    attack: Square, view: View, images: Array, labels: Array, key: Key[Array, ""], index: Array
) -> Array:
    # Traced, so that a view of probabilities is another check's finding and no error here.
    return attack(view, images, labels, key=key, index=index)


def divided(view: View, scale: Array, images: Array, *, key: Key[Array, ""]) -> Array:
    """Returns the logits of a view over a scale."""
    logits = view(images, key=key)
    return logits / scale.astype(logits.dtype)


def _adversarial(
    view: View,
    images: Array,
    labels: Array,
    index: Array,
    eps: Array,
    step_size: Array,
    scale: Array,
    loss: Array | int,
    num_steps: Array | int,
    key: Key[Array, ""],
    *,
    norm: Norm,
    bounds: tuple[float, float],
    num_classes: int,
) -> Array:
    """Returns the images after PGD, of which all but the kind of ball may change."""
    known = [losses.named(name) for name in LOSSES if name != "dlr" or num_classes > 2]

    def loss_fn(logits, labels):
        return jax.lax.switch(loss, known, logits, labels)

    view = jax.tree_util.Partial(divided, view, scale)
    attack, radii = PGD(ThreatModel(norm, 0.0, bounds)), jnp.broadcast_to(eps, labels.shape)
    keys = start_keys(key, index, 0)
    return climb(
        attack,
        Run(0, restart=0),
        Given(view, images, labels, key, index),
        num_steps=num_steps,
        step_size=step_size,
        start=attack.start(images, keys, eps=radii),
        keep="best",
        eps=radii,
        loss_fn=loss_fn,
    ).images


def _moved(images: Array, key: Key[Array, ""], eps: Array, threat: ThreatModel) -> Array:
    """Returns the images moved by random signs onto the surface of a ball, then into the box."""
    signs = jax.random.rademacher(key, images.shape, images.dtype)
    if threat.norm != "linf":
        signs = unit_l2(signs) if threat.norm == "l2" else signs / signs[0].size
    return threat.project(images + eps * signs, images, eps=jnp.broadcast_to(eps, len(images)))


def _margin_changes(
    view: View,
    images: Array,
    labels: Array,
    eps: Array,
    key: Key[Array, ""],
    *,
    norm: Norm,
    bounds: tuple[float, float],
) -> tuple[Array, Array]:
    """Returns by how much the margin changes along random signs: predicted, and in truth."""
    view_key = rng.stream(key, "view")
    asked = losses.margin, view
    gradient, before, _ = losses.gradient(*asked, images, labels, key=view_key)

    def along(number):
        signs_key = rng.stream(key, "signs", number)
        points = _moved(images, signs_key, eps, ThreatModel(norm, 0.0, bounds))
        after, _ = losses.evaluate(*asked, points, labels, key=view_key)
        return jnp.sum(
            (gradient * (points - images)).reshape(len(images), -1), axis=1
        ), after - before

    return jax.lax.map(along, jnp.arange(NUM_DIRECTIONS))


def _first_that_fools(
    view: View,
    images: Array,
    labels: Array,
    eps: Array,
    key: Key[Array, ""],
    *,
    norm: Norm,
    bounds: tuple[float, float],
) -> Array:
    """Returns the first draw of random signs that fools, the last one where none does."""

    def draw(carry):
        number, points, done = carry
        draw_key = rng.stream(key, "noise", number)
        signs_key = rng.stream(draw_key, "signs")
        noisy = _moved(images, signs_key, eps, ThreatModel(norm, 0.0, bounds))
        hit = losses.misclassified(
            _decided_logits(view, noisy, rng.stream(draw_key, "view")), labels
        )
        return number + 1, jnp.where(expand(done, points), points, noisy), done | hit

    return jax.lax.while_loop(
        lambda carry: (carry[0] < NUM_NOISES) & ~jnp.all(carry[2]),
        draw,
        (jnp.asarray(0), images, jnp.zeros(labels.shape, bool)),
    )[1]
