"""Checks that ask the model itself, on a few images, before any table is believed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from robust_jax import metrics, rng
from robust_jax.attacks import PGD, BoundedAttack, ThreatModel, bind, losses
from robust_jax.compilation import jitted
from robust_jax.data import Split, eval_batches
from robust_jax.judging import predictor
from robust_jax.methods import Method
from robust_jax.protocol import CLEAN, Evaluation, Judge
from robust_jax.records import Records
from robust_jax.sanity.draws import enough_draws
from robust_jax.sanity.findings import Finding, outranks
from robust_jax.sharding import local
from robust_jax.types import Variables

NUM_IMAGES = 64
NUM_STEPS = 20
NUM_DRAWS = 4
"""Predictions of a random model that the probes' judge averages.

Their attacks take one fresh draw at every step: what is deployed may be a mean of many already.
"""

ZERO = 1e-12
"""Norm of a gradient that counts as none."""

FEW = 0.02
"""Share of examples without a gradient that is let pass."""


def probe(
    method: Method,
    variables: Variables,
    images: Float[Array, "b h w k"],
    labels: Int[Array, " b"],
    config: Evaluation,
) -> list[Finding]:
    """Returns what the model shows on a few clean images.

    Args:
        method: what is evaluated.
        variables: its arrays.
        images: clean images in [0, 1]; a batch that fits the memory, 64 will do.
        labels: their classes.
        config: the evaluation: which views its attacks see, and in which ball.
    """
    key = rng.stream(jax.random.key(config.seed), "sanity")
    views = {
        run.view: method.view(run.view)
        for run in config.attacks.values()
        if run.source is None and run.attack.needs_logits
    } or {"deployed": method.view("deployed")}
    on = Probes(method, variables, jnp.asarray(images), jnp.asarray(labels), key)
    findings = [on.input_range(), on.randomness()]
    for name, view in views.items():
        findings += [on.probabilities(name, view), on.gradients(name, view)]
    findings += [on.unbounded(), on.rescaling(config)]
    draws = enough_draws(method, variables, on.images, on.labels, config, key=on.stream("draws"))
    return [*findings, draws]


def probe_split(
    method: Method, variables: Variables, split: Split, records: Records, config: Evaluation
) -> list[Finding]:
    """Returns what `probe` finds on the first images of an evaluation.

    Of several hosts each probes its own copy of the model, and finds the same.
    """
    rows = np.asarray(list(records[CLEAN])[:NUM_IMAGES], np.int32)
    (batch,) = eval_batches(split, len(rows), rows, None)
    return probe(method, local(variables), batch.image, batch.label, config)


class Probes:
    """The model and the images that every check asks."""

    def __init__(
        self,
        method: Method,
        variables: Variables,
        images: Array,
        labels: Array,
        key: Key[Array, ""],
    ) -> None:
        self.method, self.variables, self.key = method, variables, key
        self.images, self.labels = images, labels
        judge = Judge(num_draws=NUM_DRAWS)
        self.predict = jitted(predictor(method, judge, 0))

    def stream(self, name: str, *indices: int) -> Key[Array, ""]:
        """Returns the key of a purpose."""
        return rng.stream(self.key, name, *indices)

    def standing(self, images: Array) -> list[bool]:
        """Returns which images the deployed rule has right."""
        scores = self.predict(self.variables, images, key=self.stream("judge"))
        return (losses.decided(jnp.mean(scores, axis=0)) == self.labels).tolist()

    def attacked(self, attack: BoundedAttack) -> Callable[[float], Array]:
        """Returns a function of a scale: the images after an attack on the logits divided by it.

        They are the deployed view's, under a fresh key at every step where it is random.
        """
        view: Any = bind(self.method.view("deployed"), self.variables)
        key = self.stream("attack")
        # Traced, so that a view of probabilities becomes a finding and not an error.
        run = jitted(lambda *given: attack(*given, key=key))

        def at(scale: float) -> Array:
            divided = jax.tree_util.Partial(_divided, view, jnp.float32(scale))
            return run(divided, self.images, self.labels)

        return at

    def input_range(self) -> Finding:
        """Returns a flag unless the images use the box [0, 1] as pixels do."""
        low, high = float(jnp.min(self.images)), float(jnp.max(self.images))
        text = f"Pixels lie in [{low:.3g}, {high:.3g}]."
        if low >= 0 and high <= 1 and high - low > 0.1:
            return Finding("input range", "passed", text)
        return Finding(
            "input range",
            "flag",
            text,
            "Give images in [0, 1] and normalise inside the model; eps is in these units.",
        )

    def randomness(self) -> Finding:
        """Returns a flag where the model is random and does not say so, or the other way round."""
        name = "randomness as declared"
        predict = jitted(lambda v, i, k: self.method.predict(v, i, key=k))
        keys = [self.stream("randomness", n) for n in (0, 0, 1)]
        first, again, other = (np.asarray(predict(self.variables, self.images, k)) for k in keys)
        same_key, other_key = np.abs(first - again).max(), np.abs(first - other).max()
        if same_key > 1e-4:
            return Finding(
                name,
                "flag",
                f"The same key gives scores that differ by {same_key:.3g}: hidden randomness.",
                "Draw every random number from the key; then declare stochastic=True.",
            )
        if other_key > 1e-4 and not self.method.stochastic:
            return Finding(
                name,
                "flag",
                f"Two keys give scores that differ by {other_key:.3g}, yet stochastic=False.",
                "Declare stochastic=True, so that attacks average over draws (EOT) and the judge "
                "takes fresh ones.",
            )
        if other_key == 0 and self.method.stochastic:
            return Finding(
                name,
                "note",
                "stochastic=True, but two keys give the same scores.",
                "Declare False.",
            )
        return Finding(name, "passed", f"stochastic={self.method.stochastic}, as two keys show.")

    def probabilities(self, name: str, view: Any) -> Finding:
        """Returns a flag where an attacked view gives probabilities."""
        check = f"view {name!r} gives logits"
        logits = np.asarray(jitted(view)(self.variables, self.images, key=self.stream("view")))
        if (logits >= 0).all() and np.abs(logits.sum(-1) - 1).max() < 1e-3:
            return Finding(
                check,
                "flag",
                "Rows are in [0, 1] and sum to one: probabilities, whose softmax has almost no "
                "gradient.",
                "Return the logits, or the logarithm of the probabilities.",
            )
        return Finding(check, "passed", f"Values in [{logits.min():.3g}, {logits.max():.3g}].")

    def gradients(self, name: str, view: Any) -> Finding:
        """Returns a flag where the cross-entropy of an attacked view has no usable gradient.

        The slope of the loss by the logits is taken in float32 and in float64 (on the host); the
        latter, scaled to unit length, is pulled back through the network, so a gradient that is
        zero by saturation is told from one that the network does not have at all.
        """
        check = f"view {name!r} has gradients"

        def logits_of(variables, images, key):
            return losses.decision(view(variables, images, key=key))

        def pulled_back(variables, images, slopes, key):
            _, pull = jax.vjp(lambda images: logits_of(variables, images, key), images)
            (slope,) = pull(slopes)
            return jnp.sqrt(jnp.sum(jnp.square(slope.reshape(len(images), -1)), axis=-1))

        def loss_slopes(variables, images, key):
            logits = logits_of(variables, images, key)
            total = lambda logits: jnp.sum(losses.cross_entropy(logits, self.labels))  # noqa: E731
            return logits, jax.grad(total)(logits)

        logits, slopes = jitted(loss_slopes)(self.variables, self.images, self.stream("view"))
        pull = jitted(pulled_back)
        single = np.asarray(pull(self.variables, self.images, slopes, self.stream("view")))
        wide = np.asarray(logits, np.float64)
        wide = wide - wide.max(-1, keepdims=True)
        odds = np.exp(wide)
        label = np.asarray(self.labels)[:, None]
        exact = odds / odds.sum(-1, keepdims=True)
        others = np.arange(wide.shape[-1])[None] != label
        # Of the label itself: minus the sum of the others, which does not cancel.
        exact = np.where(others, exact, -(exact * others).sum(-1, keepdims=True))
        length = np.linalg.norm(exact, axis=-1, keepdims=True)
        unit = np.divide(exact, length, out=np.zeros_like(exact), where=length > 0)
        unit = jnp.asarray(unit, logits.dtype)
        double = np.asarray(pull(self.variables, self.images, unit, self.stream("view")))
        double = double * length[:, 0]
        broken = float(np.mean(~np.isfinite(single)))
        zero, zero_double = float(np.mean(single < ZERO)), float(np.mean(double < 1e-300))
        text = (
            f"No gradient (norm below {ZERO}) on {100 * zero:.1f} % of the images, in float64 none "
            f"at all on {100 * zero_double:.1f} %; not finite on {100 * broken:.1f} %."
        )
        if broken == 0 and zero <= FEW:
            return Finding(check, "passed", text)
        saturated = zero_double < zero
        return Finding(
            check,
            "flag",
            text,
            "The softmax is saturated: attack logits divided by their gap (Rescaled), or with the "
            "margin or DLR loss." if saturated else
            "The network hides its gradient: attack through BPDA, or by queries and transfer.",
        )  # fmt: skip

    def unbounded(self) -> Finding:
        """Returns a flag where an attack without a bound leaves more than chance."""
        attack = PGD(ThreatModel("linf", 1.0), num_steps=NUM_STEPS, step_size=0.1, loss="margin")
        standing = self.standing(self.attacked(attack)(1.0))
        num_classes = self.predict(self.variables, self.images, key=self.stream("judge")).shape[-1]
        left, chance = sum(standing), 1 / num_classes
        low, _ = metrics.interval(left, len(standing))
        text = (
            f"PGD-{NUM_STEPS} at eps = 1 leaves {left} of {len(standing)}; chance is {chance:.0%}."
        )
        if low <= chance:
            return Finding("eps = 1 reaches chance", "passed", text)
        return Finding(
            "eps = 1 reaches chance",
            "flag",
            text,
            "The gradient does not lead anywhere: no number of a gradient attack on this view "
            "means anything. Use queries, transfer, BPDA.",
        )

    def rescaling(self, config: Evaluation) -> Finding:
        """Returns a flag where dividing logits by their median margin makes an attack stronger."""
        check = "scale of the logits does not matter"
        threats = [
            run.attack.threat
            for run in config.attacks.values()
            if isinstance(run.attack, BoundedAttack) and run.attack.threat.eps > 0
        ]
        if not threats:
            return Finding(check, "not run", "No bounded attack names a ball.")
        threat = min(threats, key=lambda found: (found.norm, found.eps))
        attacked = self.attacked(PGD(threat, num_steps=NUM_STEPS))
        deployed = jitted(self.method.view("deployed"))
        logits = deployed(self.variables, self.images, key=self.stream("view"))
        margins = losses.margin(losses.decision(logits), self.labels)
        scale = float(jnp.median(jnp.abs(margins))) or 1.0
        plain = self.standing(attacked(1.0))
        better, alone = outranks(self.standing(attacked(scale)), plain)
        text = (
            f"PGD-{NUM_STEPS} at {threat.norm} eps {threat.eps:.4g} leaves {sum(plain)} of "
            f"{len(plain)}; with logits divided by {scale:.3g}, their median margin, it makes "
            f"{alone} more of them wrong."
        )
        if not better:
            return Finding(check, "passed", text)
        return Finding(
            check,
            "flag",
            text,
            "Quote attacks on rescaled logits (Rescaled), or with the scale-free DLR loss.",
        )


def _divided(view: Any, scale: Any, images: Any, *, key: Any) -> Any:
    logits = view(images, key=key)
    return logits / scale.astype(logits.dtype)
