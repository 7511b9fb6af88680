"""Checks that ask the model itself, on a few images, before any table is believed."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import FGSM, PGD, BoundedAttack, ThreatModel, losses
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judges import Judge
from robust_jax.evaluation.protocol import CLEAN
from robust_jax.evaluation.records import Records
from robust_jax.evaluation.sanity import referees
from robust_jax.evaluation.sanity.attacked import AttackedView
from robust_jax.evaluation.sanity.draws import enough_draws
from robust_jax.evaluation.sanity.findings import Finding
from robust_jax.evaluation.sanity.indicators import indicators
from robust_jax.evaluation.sanity.probed import Probed
from robust_jax.methods import Method
from robust_jax.methods.base import MethodView
from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.sharding import local
from robust_jax.types import Variables

NUM_IMAGES = 64
ZERO = 1e-12
"""Norm of a gradient that counts as none."""

FEW = 0.02
"""Share of examples without a gradient that is let pass."""


def probe(probed: Probed, *, fooled: Mapping[str, Sequence[bool]] | None = None) -> list[Finding]:
    """Returns what the model shows on a few clean images.

    Args:
        probed: the model, the images and the attacks that are to be judged.
        fooled: by attack, on which of the images it fooled the view that it sees, where that is
            known; the probe's referees are compared with those too.
    """
    method, variables, images, labels, attacks, _, seed = probed
    key = rng.stream(jax.random.key(seed), "sanity")
    on = Probes(probed, key)
    findings = [on.input_range(), on.randomness()]
    views = attacked_views(method, attacks)
    for name, view in views.items():
        findings += [on.probabilities(name, view), on.gradients(name, view)]
    for name, view in views.items():
        attacked = AttackedView(
            name,
            view,
            variables,
            images,
            labels,
            stochastic=method.stochastic,
            key=on.stream("attacked view"),
        )
        findings += referees.findings(attacked, balls_of(name, attacks, fooled or {}))
        findings += without_referee(name, attacks)
    findings += indicators(probed, key=on.stream("indicators"))
    return [*findings, enough_draws(probed, key=on.stream("draws"))]


def is_white_box(run: AttackRun) -> bool:
    """Returns whether an attack differentiates a view of the model itself."""
    return run.source is None and run.attack.needs_logits


def attacked_views(method: Method, attacks: Mapping[str, AttackRun]) -> dict[str, MethodView]:
    """Returns the views that white-box attacks see, by name; the deployed one without any."""
    runs = filter(is_white_box, attacks.values())
    names = list(dict.fromkeys(run.view for run in runs)) or ["deployed"]
    return {name: method.view(name) for name in names}


def balls_of(
    view: str, attacks: Mapping[str, AttackRun], fooled: Mapping[str, Sequence[bool]]
) -> list[referees.Ball]:
    """Returns the balls that white-box attacks on a view stay in, the smaller ones first.

    Those in which PGD, the referee of all of them, has no steps (L0) are left out.
    """
    found: dict[ThreatModel, np.ndarray | None] = {}
    for name, run in attacks.items():
        attack = run.attack
        if run.view != view or not is_white_box(run) or not isinstance(attack, BoundedAttack):
            continue
        if attack.threat.eps > 0 and attack.threat.norm in PGD.norms:
            known = found.setdefault(attack.threat, None)
            # One step is known to leave more than several, which shows no mask.
            if name in fooled and not isinstance(attack, FGSM):
                new = np.asarray(fooled[name], bool)
                found[attack.threat] = new if known is None else known | new
    ordered = sorted(found, key=lambda threat: (threat.norm, threat.eps))
    return [referees.Ball(threat, found[threat]) for threat in ordered]


def without_referee(view: str, attacks: Mapping[str, AttackRun]) -> list[Finding]:
    """Returns that nothing was run against attacks on a view in balls without a referee (L0)."""
    runs = [run for run in attacks.values() if run.view == view and run.source is None]
    bounded = [run.attack.threat for run in runs if isinstance(run.attack, BoundedAttack)]
    left = dict.fromkeys(str(threat) for threat in bounded if threat.norm not in PGD.norms)
    if not left:
        return []
    text = f"PGD, queries of squares and noise have no steps in {', '.join(left)}."
    step = "Compare attacks of several kinds there: SigmaZero(...).within(eps), SparseRS."
    return [Finding(f"view {view!r}: referees in every ball", "not run", text, step)]


def probe_split(
    method: Method,
    variables: Variables,
    split: Split,
    records: Records,
    attacks: Mapping[str, AttackRun],
    *,
    judge: Judge,
    seed: int,
    skip_misclassified: bool,
) -> list[Finding]:
    """Returns what `probe` finds on the first images of an evaluation.

    Of several hosts each probes its own copy of the model, and finds the same.
    """
    rows = list(records[CLEAN])[:NUM_IMAGES]
    (batch,) = eval_batches(split, len(rows), np.asarray(rows, np.int32), None)
    # Who is right nowhere was not attacked: no attack left it standing, so no referee beats one.
    skipped = {
        row for row in rows if skip_misclassified and not records[CLEAN][row].right_in_a_draw
    }
    fooled = {
        name: [row in skipped or _fooled(name, row, attacks, records) for row in rows]
        for name in attacks
        if name in records
    }
    images, labels = jnp.asarray(batch.image), jnp.asarray(batch.label)
    probed = Probed(method, local(variables), images, labels, attacks, judge, seed)
    return probe(probed, fooled=fooled)


def _fooled(name: str, row: int, attacks: Mapping[str, AttackRun], records: Records) -> bool:
    """Returns whether a row's attack, or one on its view in a smaller ball before it, fooled it."""
    run, found = attacks[name], records[name][row].view_fooled
    before = run.after
    if found or before is None:
        return found
    if (attacks[before].view, attacks[before].source) != (run.view, run.source):
        return found
    return _fooled(before, row, attacks, records)


def difference(scores: np.ndarray, others: np.ndarray) -> float:
    """Returns the largest difference: none where both are the same infinity or no number."""
    same = (scores == others) | (np.isnan(scores) & np.isnan(others))
    gaps = np.abs(np.where(same, 0, scores) - np.where(same, 0, others))
    return float(np.where(np.isnan(gaps), np.inf, gaps).max())


class Probes:
    """The model and the images that every check asks."""

    def __init__(self, probed: Probed, key: Key[Array, ""]) -> None:
        self.method, self.variables, self.key = probed.method, probed.variables, key
        self.images, self.labels = probed.images, probed.labels

    def stream(self, name: str, *indices: int) -> Key[Array, ""]:
        """Returns the key of a purpose."""
        return rng.stream(self.key, name, *indices)

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
        # Two programs: what the host draws while one is traced is the same in all its calls.
        predict, traced_again = (
            jitted(lambda v, i, k: self.method.predict(v, i, key=k)) for _ in range(2)
        )
        first, again, other = (
            np.asarray(program(self.variables, self.images, self.stream("randomness", n)))
            for program, n in ((predict, 0), (traced_again, 0), (predict, 1))
        )
        same_key, other_key = difference(first, again), difference(first, other)
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

    def probabilities(self, name: str, view: MethodView) -> Finding:
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

    def gradients(self, name: str, view: MethodView) -> Finding:
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
        unit, length = _slopes_in_float64(np.asarray(logits), np.asarray(self.labels))
        double = np.asarray(
            pull(self.variables, self.images, jnp.asarray(unit, logits.dtype), self.stream("view"))
        )
        # Of slopes that underflow in float64 too, as those of logits that lie 1,000 apart do.
        has_none = float(np.mean(double == 0))
        double = double * length
        broken = float(np.mean(~np.isfinite(single)))
        zero, zero_double = float(np.mean(single < ZERO)), float(np.mean(double < 1e-300))
        text = (
            f"No gradient (norm below {ZERO}) on {100 * zero:.1f} % of the images, in float64 none "
            f"at all on {100 * zero_double:.1f} %; not finite on {100 * broken:.1f} %."
        )
        if broken == 0 and zero <= FEW:
            return Finding(check, "passed", text)
        saturated = has_none < zero
        return Finding(
            check,
            "flag",
            text,
            "The softmax is saturated: attack logits divided by their gap (Rescaled), or with the "
            "margin or DLR loss." if saturated else
            "The network hides its gradient: attack through BPDA, or by queries and transfer.",
        )  # fmt: skip


def _slopes_in_float64(
    logits: Float[np.ndarray, "b c"], labels: Int[np.ndarray, " b"]
) -> tuple[Float[np.ndarray, "b c"], Float[np.ndarray, " b"]]:
    """Returns the slopes of the cross-entropy by the logits, at unit length, and their lengths.

    From the largest of the other classes' logits, so that a direction is left where all of them
    underflow; the label's own is minus the sum of the others, which does not cancel.
    """
    wide = logits.astype(np.float64)
    others = np.arange(wide.shape[-1])[None] != labels[:, None]
    among = np.where(others, wide, -np.inf)
    top = among.max(-1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):  # of logits that are not finite
        shares = np.where(others, np.exp(among - top), 0.0)
        slopes = np.where(others, shares, -shares.sum(-1, keepdims=True))
        norm = np.linalg.norm(slopes, axis=-1, keepdims=True)
        unit = np.divide(slopes, norm, out=np.zeros_like(slopes), where=norm > 0)
        peak = wide.max(-1, keepdims=True)
        total = np.exp(wide - peak).sum(-1, keepdims=True)
        length = norm * np.exp(top - peak) / total
    return unit, length[:, 0]
