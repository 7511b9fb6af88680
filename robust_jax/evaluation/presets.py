"""Evaluations by name, of any model: "quick", "standard" and "honest"."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from robust_jax.attacks import (
    APGD,
    ARC,
    MORA,
    PGD,
    AutoAttack,
    FrugalAttack,
    SparseRS,
    Square,
    ThreatModel,
)
from robust_jax.certify import Margins, Smoothing
from robust_jax.data import Split
from robust_jax.data.images import check_layout
from robust_jax.evaluation import dry_run
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judges import HONEST, Judge
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import Adversary, Evaluation, Selection

Attacks = dict[str, AttackRun]
Preset = Literal["quick", "standard", "honest"]

NUM_EXAMPLES: dict[Preset, int] = {"quick": 256, "standard": 1000, "honest": 1000}
RANDOM_EXAMPLES = 200
"""Of a model that draws, whose every pass is several, in the honest evaluation."""

EOT = 20
"""Draws at every step of an attack on a model that draws."""

CERTIFIED = 200_000
"""Most parameters of a network whose margins are bounded without being asked for."""

_NOT_ATTACKED = {"deployed", "train", "members", "decision"}
"""Views that no preset attacks as "another view": one is attacked anyway, the others are no
surrogates of what is deployed."""


def preset(
    name: Preset,
    threat: ThreatModel,
    model: Model,
    data: Split | tuple[ArrayLike, ArrayLike],
) -> Evaluation:
    """Returns the evaluation of a name for a model, by what the model says of itself.

    * quick: two short runs of APGD and a few hundred queries: a minute or more, for a first look.
    * standard: AutoAttack (its version for random models where it draws), PGD of 100 steps from
      five starts on the margin; 1,000 images.
    * honest: besides, the suite of few passes, and what knows the model: of one that draws, APGD
      through the mean of 20 draws, and Square on a fixed mean; of an ensemble MORA and ARC; every
      other view that it shows; queries of what is deployed alone; bounds of the margins of a
      small network. 1,000 images, 200 of a model that draws.

    All are followed by the sanity checks.

    Args:
        name: of the preset.
        threat: the ball.
        model: what is judged.
        data: what it is judged on, as `run` takes it; fewer images are all taken.

    Raises:
        ValueError: no such preset, images of another rank, fewer than two classes, or a function
            that does not run on such images.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> from robust_jax.evaluation import Model, preset
        >>> images, labels = jnp.zeros((5, 4, 4, 3)), jnp.zeros(5, int)
        >>> pixel = Model.of(lambda images: images[:, 0, 0], num_classes=3)
        >>> sorted(preset("standard", ThreatModel("linf", 0.1), pixel, (images, labels)).attacks)
        ['autoattack', 'pgd100x5']
    """
    if isinstance(data, Split):
        count, shape = len(data), data.shape
    else:
        count, *shape = np.shape(data[0])
    makers = {"quick": _quick, "standard": _standard, "honest": _honest}
    if name not in makers:
        raise ValueError(f"Expected preset={name!r} to be one of {list(makers)}.")
    if len(shape) != 3:
        raise ValueError(f"Expected images of shape {(count, *shape)} to be [b h w k].")
    if model.num_classes < 2:
        raise ValueError(f"Expected num_classes={model.num_classes} >= 2: one is always right.")
    check_layout((count, *shape))
    height, width, channels = shape
    shape = height, width, channels
    model.check(shape)
    draws, several = model.method.stochastic, num_members(model, shape) > 1
    if threat.norm in SparseRS.norms:
        attacks = {"sparse_rs": AttackRun(SparseRS(threat), view="decision")}
    else:
        attacks = makers[name](threat, model, several)
    judges = {HONEST: Judge()}
    if draws:
        judges["one draw"] = Judge(rule="paper")
    if several and name == "honest":
        judges["one member"] = Judge(view="members", rule="paper")
    most = RANDOM_EXAMPLES if draws and name == "honest" else NUM_EXAMPLES[name]
    return Evaluation(
        attacks,
        judges,
        certificates=_certificates(threat, model, shape) if name == "honest" else {},
        num_certified=100,
        selection=Selection(num_examples=min(most, count)),
        adversary=Adversary(skip_misclassified="one member" not in judges),
    )


def num_members(model: Model, shape: tuple[int, int, int]) -> int:
    """Returns how many members a model says it has; 1 of a single network."""
    images: PyTree = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    view = functools.partial(model.method.view("members"), key=jax.random.key(0))
    return jax.eval_shape(view, model.variables, images).shape[0]


def _quick(threat: ThreatModel, model: Model, several: bool) -> Attacks:
    del several
    samples = 4 if model.method.stochastic else 1
    apgd = APGD(threat, num_steps=20)
    return {
        "apgd": AttackRun(apgd, eot_samples=samples),
        "apgd_margin": AttackRun(dataclasses.replace(apgd, loss="margin"), eot_samples=samples),
        "square": AttackRun(Square(threat, num_queries=300), view="decision"),
    }


def _standard(threat: ThreatModel, model: Model, several: bool) -> Attacks:
    del several
    samples = EOT if model.method.stochastic else 1
    autoattack = AutoAttack(threat, version="rand" if model.method.stochastic else "standard")
    members = autoattack.members(model.num_classes)
    if members != autoattack.members():  # of fewer than ten classes: said, and reduced so
        autoattack = AutoAttack(threat, version="custom", attacks=members)
    pgd = PGD(threat, num_steps=100, num_restarts=5, loss="margin", step_size=threat.eps / 10)
    return {
        "autoattack": AttackRun(autoattack),
        "pgd100x5": AttackRun(pgd, eot_samples=samples),
    }


def _honest(threat: ThreatModel, model: Model, several: bool) -> Attacks:
    attacks, method = _standard(threat, model, several), model.method
    for name in sorted({*method.views} - _NOT_ATTACKED):
        margin = PGD(threat, num_steps=40, loss="margin", step_size=threat.eps / 10)
        attacks[f"pgd40_{name}"] = AttackRun(margin, view=name, adaptive=True)
    if method.stochastic:
        apgd = APGD(threat, num_steps=50)
        margin = dataclasses.replace(apgd, loss="margin")
        square = Square(threat, num_queries=1000)
        attacks["apgd_eot"] = AttackRun(apgd, eot_samples=EOT, adaptive=True)
        attacks["apgd_margin_eot"] = AttackRun(margin, eot_samples=EOT, adaptive=True)
        attacks["square_fixed"] = AttackRun(square, eot_samples=5, draws="fixed", adaptive=True)
    else:
        if threat.norm in FrugalAttack.norms:
            attacks["frugal"] = AttackRun(FrugalAttack(threat))
        attacks["square"] = AttackRun(Square(threat), view="decision")
    if several and not method.stochastic and threat.norm in MORA.norms:
        mora = MORA.of_vote(threat, method.vote or "mean_probability")
        attacks["mora"] = AttackRun(mora, view="members", adaptive=True)
        attacks["arc"] = AttackRun(ARC(threat, first=APGD(threat)), view="members", adaptive=True)
    return attacks


def _certificates(
    threat: ThreatModel, model: Model, shape: tuple[int, int, int]
) -> dict[str, Smoothing | Margins]:
    """Returns a bound of the margins, of a small model whose operations can be bounded."""
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.variables))
    if model.method.stochastic or threat.norm not in ("linf", "l2") or not 0 < size <= CERTIFIED:
        return {}
    if threat.bounds != (0.0, 1.0):  # to which a certificate cuts its ball
        return {}
    margins = Margins(threat.eps, norm=threat.norm)
    return {"margins": margins} if dry_run.can_certify(margins, model, shape) else {}
