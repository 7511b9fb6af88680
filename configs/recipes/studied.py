"""How a study judges each family of defences: what its paper does, and what knows the family.

In each ball `paper` is the attack of the method's paper at that radius, on what is attacked there
and by the rule that decides there; labels are the true ones, and images count that are right before
and after, as for every attack of a study. `frugal` is the suite of few passes; then what attacks
the method's own ways: MORA and ARC on ensembles, EOT, noise off and fixed draws on random networks,
differentiable ranks on REGroup; and Square, which needs no gradient. Where a setting names a plain
row, its adversarial examples are transferred too.
"""

import dataclasses
from collections.abc import Callable

from robust_jax.attacks import APGD, ARC, MORA, PGD, FrugalAttack, Square, ThreatModel
from robust_jax.certify import Margins, Smoothing
from robust_jax.evaluation.judges import REDUCED_DRAWS
from robust_jax.evaluation.protocol import (
    PAPER,
    Adversary,
    AttackRun,
    Evaluation,
    Judge,
    Selection,
    side_by_side,
)
from robust_jax.study import CROWN, FRUGAL, TRANSFER, Row, in_ball
from robust_jax.types import Budget
from robust_jax.voting import Vote

NUM_QUERIES = 1000
"""Of Square: enough to see a gradient that is masked."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the evaluations of a study share.

    Attributes:
        threats: balls, the smallest first.
        num_examples: test images.
        num_random: of networks that draw, whose every pass is several.
        plain: row whose adversarial examples are transferred; None for none.
        certified: bound the margins of the first hundred images?
        batch_size: of the evaluation.
        budget: of every attack, the paper's too; "reduced" where a network's pass is dear.
    """

    threats: tuple[ThreatModel, ...]
    num_examples: int
    num_random: int
    plain: str | None = None
    certified: bool = True
    batch_size: int = 128
    budget: Budget = "full"


ROWS = {
    "plain": Row("plain", "plain"),
    "ensemble": Row("ensemble of 3", "plain"),
    "nt0.1": Row("noise .1 (NT)", "KAP"),
    "kap0.1": Row("KAP, noise .1", "KAP"),
    "kap0.2": Row("KAP, noise .2", "KAP"),
    "kmp0.1": Row("KMP, noise .1", "KAP"),
    "rls": Row("RLS", "RLS"),
    "lpd": Row("LPD", "LPD"),
    "pdd_deg": Row("PDD + DEG", "LPD"),
    "parl": Row("PARL", "PARL"),
    "adp": Row("ADP", "diverse ensembles"),
    "gal": Row("GAL", "diverse ensembles"),
    "dverge": Row("DVERGE", "diverse ensembles"),
    "trs": Row("TRS", "diverse ensembles"),
    "rse": Row("RSE", "random networks"),
    "sap": Row("SAP", "random networks"),
    "batch_ensemble": Row("BatchEnsemble", "plain"),
    "gaussian": Row("Gaussian, .25", "random networks"),
    "pgd_at": Row("PGD-AT", "adversarial training"),
    "trades": Row("TRADES", "adversarial training"),
    "mart": Row("MART", "adversarial training"),
    "fast_at": Row("Fast-AT", "adversarial training"),
    "kap_at": Row("KAP + AT", "KAP"),
    "parl_at": Row("PARL + AT", "PARL"),
    "regroup": Row("REGroup", "REGroup", after="plain"),
    "regroup_at": Row("REGroup on AT", "REGroup", after="pgd_at"),
}
"""Rows that studies from scratch share, in the order of their tables."""

Runs = Callable[[ThreatModel], dict[str, AttackRun]]


def judged(
    setting: Setting,
    runs: Runs,
    *,
    papers_rule: Judge | None = None,
    further: dict[str, Judge] | None = None,
    draws: bool = False,
    certified: bool = True,
) -> Evaluation:
    """Returns an evaluation with the paper's attack and its own adversaries in every ball.

    Args:
        setting: of the study.
        runs: of a ball, by name; `PAPER` attacks as the method's paper does, the others know it.
        papers_rule: as the paper counts; None for the deployed rule, once.
        further: columns besides, of one member at random.
        draws: is the network random?
        certified: can its margins be bounded?
    """
    attacks: dict[str, AttackRun] = {}
    for threat in setting.threats:
        named = runs(threat)
        if setting.plain is not None:
            named[TRANSFER] = AttackRun(pgd(threat), source=setting.plain)
        for name, run in named.items():
            run = run.reduced() if setting.budget == "reduced" else run
            attacks[in_ball(name, threat)] = dataclasses.replace(run, adaptive=name != PAPER)
    margins: dict[str, Smoothing | Margins] = {
        in_ball(CROWN, threat): Margins(threat.eps) for threat in setting.threats
    }
    return Evaluation(
        attacks=attacks,
        judges=side_by_side(papers_rule) | (further or {}),
        certificates=margins if certified and setting.certified else {},
        num_certified=100,
        selection=Selection(num_examples=setting.num_random if draws else setting.num_examples),
        adversary=Adversary(skip_misclassified=not further, num_submissions=10),
        batch_size=setting.batch_size,
    )


def pgd(threat: ThreatModel, num_steps: int = 20) -> PGD:
    """Returns the common PGD of papers."""
    return PGD(threat, num_steps=num_steps, step_size=threat.eps / 10)


def transferred(threat: ThreatModel, source: str) -> AttackRun:
    """Returns PGD's examples of another row, as PARL's section 5.1 makes them."""
    attack = PGD(threat, num_steps=50, step_size=threat.eps / 5, num_restarts=10)
    return AttackRun(attack, source=source)


def last_of_ten(threat: ThreatModel, *, random_start: bool = True) -> AttackRun:
    """Returns the PGD of ADP's, LPD's and RLS' papers: the point after ten steps."""
    attack = PGD(
        threat, num_steps=10, step_size=threat.eps / 10, random_start=random_start, keep="last"
    )
    return AttackRun(attack)


def network(setting: Setting) -> Evaluation:
    """Returns the evaluation of one deterministic network."""

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        return {
            PAPER: AttackRun(pgd(threat)),
            FRUGAL: AttackRun(FrugalAttack(threat)),
            "square": AttackRun(Square(threat, num_queries=NUM_QUERIES)),
        }

    return judged(setting, runs)


def ensemble(
    setting: Setting,
    *,
    vote: Vote = "mean_probability",
    paper: Callable[[ThreatModel], AttackRun] = lambda threat: AttackRun(pgd(threat)),
) -> Evaluation:
    """Returns the evaluation of members that vote.

    Args:
        setting: of the study.
        vote: how they decide, which MORA attacks.
        paper: as its paper attacks.
    """

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        square = Square(threat, num_queries=NUM_QUERIES)
        return {
            PAPER: paper(threat),
            FRUGAL: AttackRun(FrugalAttack(threat)),
            "mora": AttackRun(MORA.of_vote(threat, vote), view="members"),
            "arc": AttackRun(ARC(threat, first=APGD(threat)), view="members"),
            "square": AttackRun(square, view="decision"),
        }

    one = {"one member": Judge(view="members", rule="paper")}
    return judged(setting, runs, further=one)


def random(
    setting: Setting,
    paper: Callable[[ThreatModel], AttackRun],
    one_draw: str,
    papers_rule: Judge | None = None,
) -> Evaluation:
    """Returns the evaluation of a network that draws.

    Args:
        setting: of the study.
        paper: as its paper attacks.
        one_draw: view of a single pass.
        papers_rule: as its paper counts.
    """

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        draws = REDUCED_DRAWS if setting.budget == "reduced" else 10
        apgd = APGD(threat, num_steps=50)
        margin = dataclasses.replace(apgd, loss="margin")
        query = Square(threat, num_queries=NUM_QUERIES)
        return {
            PAPER: paper(threat),
            FRUGAL: AttackRun(FrugalAttack(threat), view="noise_off"),
            f"apgd_eot{draws}": AttackRun(apgd, view=one_draw, eot_samples=draws),
            f"apgd_margin_eot{draws}": AttackRun(margin, view=one_draw, eot_samples=draws),
            "square_fixed": AttackRun(query, view=one_draw, eot_samples=5, draws="fixed"),
        }

    return judged(setting, runs, papers_rule=papers_rule, draws=True, certified=False)


def noise_off(setting: Setting) -> Evaluation:
    """Returns the evaluation of KAP's paper: attacked, and judged, without noise."""

    def paper(threat: ThreatModel) -> AttackRun:
        attack = PGD(threat, num_steps=20, step_size=threat.eps / 4, keep="last")
        return AttackRun(attack, view="noise_off")

    return random(
        setting,
        paper,
        "deployed",
        Judge(view="noise_off", rule="paper"),
    )


def layers(setting: Setting) -> Evaluation:
    """Returns the evaluation of RLS's paper: one sampled network is attacked, from the image on."""

    def paper(threat: ThreatModel) -> AttackRun:
        return dataclasses.replace(last_of_ten(threat, random_start=False), view="frozen_1")

    return random(setting, paper, "fresh")


def one_draw(setting: Setting) -> Evaluation:
    """Returns the evaluation of networks whose papers attack one draw at every step."""
    return random(setting, lambda threat: AttackRun(pgd(threat), view="one_draw"), "one_draw")


def ranks(setting: Setting) -> Evaluation:
    """Returns the evaluation of REGroup: its paper attacks the softmax network."""
    views = ("deployed", "deployed_1", "kl_margin", "feature_match")

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        margin = PGD(threat, num_steps=40, loss="margin")
        return {
            PAPER: AttackRun(pgd(threat, 40), view="surrogate"),
            FRUGAL: AttackRun(FrugalAttack(threat), view="kl_margin"),
            **{f"pgd40_{view}": AttackRun(margin, view=view) for view in views},
            "square": AttackRun(Square(threat, num_queries=NUM_QUERIES), view="decision"),
        }

    return judged(setting, runs, certified=False)
