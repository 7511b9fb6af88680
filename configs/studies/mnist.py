"""What every defence leaves of MNIST under an adversary who knows it, on one small network.

    python -m robust_jax.study configs/studies/mnist.py --data-dir DIR
    python -m robust_jax.study configs/studies/mnist.py --only kap0.1 pgd_at
    python train.py configs/studies/mnist.py:kap0.1           # one row by itself

One network of 48,101 parameters (three convolutions and a linear layer; each member of an ensemble
is one), five epochs of Adam with a cosine, batches of 128, for all rows; the checkpoint of best
validation accuracy, under PGD where training attacks. No augmentation, no normalisation. Each
defence has its paper's own strength where that is said for MNIST, otherwise its defaults.
Adversarial training is by seven steps of PGD in Linf .1.

Judged in Linf .03, in which plain training leaves something to lose, and in .1; the adversarially
trained in .3 too: 500 test images, 200 for random methods, whose every pass is several. In each
ball `paper` is the attack that the method's paper judges by, seen and counted as there; `frugal`
the suite of few passes; then what attacks the method's own ways:
MORA and ARC on ensembles, EOT, noise off and fixed draws on random networks, differentiable ranks
on REGroup, and Square, which needs no gradient (1,000 queries).
"""

import dataclasses
from collections.abc import Callable, Sequence

from robust_jax.attacks import (
    APGD,
    ARC,
    MORA,
    PGD,
    FrugalAttack,
    Square,
    ThreatModel,
)
from robust_jax.certify import Margins, Smoothing
from robust_jax.data import TFDS, DataConfig
from robust_jax.evaluation.protocol import (
    PAPER,
    Adversary,
    AttackRun,
    Evaluation,
    Judge,
    Selection,
    side_by_side,
)
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    DVERGE,
    KAP,
    MART,
    PARL,
    TRADES,
    AdaptiveDiversityPromoting,
    BatchEnsemble,
    GradientAlignment,
    KernelPool,
    MethodConfig,
    PriorityDropout,
    PriorityRates,
    RandomLayerSampling,
    RandomSelfEnsemble,
    REGroup,
    Standard,
    StochasticActivationPruning,
    TransferabilityReducedSmooth,
)
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.study import CROWN, FRUGAL, Row, Study, in_ball
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import Cosine, OptimizerConfig

from ..recipes import changes

NETWORK = CNNConfig(widths=(25, 49, 81), strides=(2, 2, 1))
ENSEMBLE = EnsembleConfig(NETWORK, 3)
SMALL, MEDIUM, LARGE = (ThreatModel("linf", eps=eps) for eps in (0.03, 0.1, 0.3))
TRAINED_BY = PGD(MEDIUM, num_steps=7, step_size=0.025)
EPOCHS = 5.0


def trained(method: MethodConfig, evaluation: Evaluation, *, attack: PGD | None = None) -> Config:
    """Returns the training of a row.

    Args:
        method: the defence.
        evaluation: of its family.
        attack: trains adversarially; None for clean training.
    """
    adversarial = None if attack is None else AdversarialTraining(attack)
    attacked = attack is not None or any(term.views for term in method.all_terms)
    return Config(
        name="mnist",
        data=DataConfig(TFDS("mnist"), validation_size=1000),
        method=method,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule=Cosine()),
        training=TrainingConfig(
            phases=(Phase(epochs=EPOCHS, batch_size=128),),
            adversarial=adversarial,
            best_by="robust_accuracy" if attacked else "accuracy",
            validation_attack=PGD(MEDIUM, num_steps=10) if attacked else None,
        ),
        evaluation=evaluation,
    )


Runs = Callable[[ThreatModel], dict[str, AttackRun]]


def judged(
    runs: Runs,
    *,
    threats: Sequence[ThreatModel] = (SMALL, MEDIUM),
    papers_rule: Judge | None = None,
    further: dict[str, Judge] | None = None,
    skip_misclassified: bool = True,
    num_examples: int = 500,
    certified: bool = True,
) -> Evaluation:
    """Returns an evaluation with the paper's attack and its own adversaries in every ball.

    Args:
        runs: of a ball, by name; `PAPER` attacks as the method's paper does, the others know it.
        threats: the balls.
        papers_rule: as the paper counts; None for the deployed rule, once.
        further: columns besides.
        skip_misclassified: see `Adversary`.
        num_examples: test images.
        certified: bound the margins of the first hundred?
    """
    attacks = {
        in_ball(name, threat): dataclasses.replace(run, adaptive=name != PAPER)
        for threat in threats
        for name, run in runs(threat).items()
    }
    margins: dict[str, Smoothing | Margins] = {
        in_ball(CROWN, threat): Margins(threat.eps) for threat in threats
    }
    return Evaluation(
        attacks=attacks,
        judges=side_by_side(papers_rule) | (further or {}),
        certificates=margins if certified else {},
        num_certified=100,
        selection=Selection(num_examples=num_examples),
        adversary=Adversary(skip_misclassified=skip_misclassified, num_submissions=10),
        batch_size=128,
    )


def pgd(threat: ThreatModel, num_steps: int = 20) -> PGD:
    """Returns the common PGD of papers."""
    return PGD(threat, num_steps=num_steps, step_size=threat.eps / 10)


def network(threats: Sequence[ThreatModel] = (SMALL, MEDIUM)) -> Evaluation:
    """Returns the evaluation of one deterministic network in these balls."""

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        return {
            PAPER: AttackRun(pgd(threat)),
            FRUGAL: AttackRun(FrugalAttack(threat)),
            "square": AttackRun(Square(threat, num_queries=1000)),
        }

    return judged(runs, threats=threats)


def ensemble() -> Evaluation:
    """Returns the evaluation of members that vote."""

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        return {
            PAPER: AttackRun(pgd(threat)),
            FRUGAL: AttackRun(FrugalAttack(threat)),
            "mora": AttackRun(MORA(threat, rule="voting"), view="members"),
            "arc": AttackRun(ARC(threat, first=APGD(threat)), view="members"),
            "square": AttackRun(Square(threat, num_queries=1000), view="decision"),
        }

    one = {"one member": Judge(view="members", rule="paper")}
    return judged(runs, further=one, skip_misclassified=False)


def random(
    paper: Callable[[ThreatModel], AttackRun], one_draw: str, papers_rule: Judge | None = None
) -> Evaluation:
    """Returns the evaluation of a network that draws.

    Args:
        paper: as its paper attacks.
        one_draw: view of a single pass.
        papers_rule: as its paper counts.
    """

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        apgd = APGD(threat, num_steps=50)
        margin = dataclasses.replace(apgd, loss="margin")
        query = Square(threat, num_queries=1000)
        return {
            PAPER: paper(threat),
            FRUGAL: AttackRun(FrugalAttack(threat), view="noise_off"),
            "apgd_eot10": AttackRun(apgd, view=one_draw, eot_samples=10),
            "apgd_margin_eot10": AttackRun(margin, view=one_draw, eot_samples=10),
            "square_fixed": AttackRun(query, view=one_draw, eot_samples=5, draws="fixed"),
        }

    return judged(runs, papers_rule=papers_rule, num_examples=200, certified=False)


def regroup() -> Evaluation:
    """Returns the evaluation of ranks: the paper attacks the softmax network."""
    views = ("deployed", "deployed_1", "kl_margin", "feature_match")

    def runs(threat: ThreatModel) -> dict[str, AttackRun]:
        margin = PGD(threat, num_steps=40, loss="margin")
        return {
            PAPER: AttackRun(pgd(threat, 40), view="surrogate"),
            FRUGAL: AttackRun(FrugalAttack(threat), view="kl_margin"),
            **{f"pgd40_{view}": AttackRun(margin, view=view) for view in views},
            "square": AttackRun(Square(threat, num_queries=1000), view="decision"),
        }

    return judged(runs, certified=False)


NOISE_OFF = random(
    lambda threat: AttackRun(pgd(threat), view="noise_off"),
    "deployed",
    Judge(view="noise_off", rule="paper"),
)
LAYERS = random(lambda threat: AttackRun(pgd(threat, 10), view="frozen_1"), "fresh")
ONE_DRAW = random(lambda threat: AttackRun(pgd(threat), view="one_draw"), "one_draw")
TRAINED_ATTACKED = network((SMALL, MEDIUM, LARGE))
SEVEN_STEPS = dataclasses.replace(TRAINED_BY, loss="kl", start_sigma=0.001)


def fitted(after: str) -> Config:
    """Returns REGroup of another row, which it starts from."""
    config = trained(REGroup(network=NETWORK, num_layers=3, images_per_class=1000), regroup())
    return changes.with_training(config, phases=(), init_from=f"runs/studies/mnist/{after}/seed0")


VARIANTS = {
    "plain": trained(Standard(network=NETWORK), network()),
    "ensemble": trained(Standard(network=ENSEMBLE), ensemble()),
    "nt0.1": trained(
        # Noise without kernels that are pooled: the KAP paper's control.
        KAP(network=NETWORK, pool=KernelPool(kernel_size=1), sigma=0.1),
        NOISE_OFF,
    ),
    "kap0.1": trained(KAP(network=NETWORK, sigma=0.1), NOISE_OFF),
    "kap0.2": trained(KAP(network=NETWORK, sigma=0.2), NOISE_OFF),
    "kmp0.1": trained(KAP(network=NETWORK, pool=KernelPool("max"), sigma=0.1), NOISE_OFF),
    "rls": trained(RandomLayerSampling(network=NETWORK, num_samples=3, num_draws=5), LAYERS),
    "lpd": trained(PriorityDropout(network=ENSEMBLE), ensemble()),
    "pdd_deg": trained(
        PriorityDropout(network=ENSEMBLE, rates=PriorityRates(), deg_weight=0.01), ensemble()
    ),
    "parl": trained(PARL(network=ENSEMBLE, num_layers=3), ensemble()),
    "adp": trained(AdaptiveDiversityPromoting(network=ENSEMBLE), ensemble()),
    "gal": trained(
        GradientAlignment(
            network=EnsembleConfig(
                dataclasses.replace(NETWORK, activation="leaky_relu", negative_slope=0.1), 3
            )
        ),
        ensemble(),
    ),
    "dverge": trained(DVERGE(network=ENSEMBLE, eps=0.1, step_size=0.01), ensemble()),
    "trs": trained(TransferabilityReducedSmooth(network=ENSEMBLE), ensemble()),
    "rse": trained(RandomSelfEnsemble(network=NETWORK), ONE_DRAW),
    "sap": trained(StochasticActivationPruning(network=NETWORK, num_draws=10), ONE_DRAW),
    "batch_ensemble": trained(BatchEnsemble(network=NETWORK), ensemble()),
    "gaussian": trained(Standard(network=NETWORK, input_sigma=0.25), network()),
    "pgd_at": trained(Standard(network=NETWORK), TRAINED_ATTACKED, attack=TRAINED_BY),
    "trades": trained(TRADES(network=NETWORK, attack=SEVEN_STEPS), TRAINED_ATTACKED),
    "mart": trained(MART(network=NETWORK, attack=TRAINED_BY), TRAINED_ATTACKED),
    "fast_at": trained(
        Standard(network=NETWORK),
        TRAINED_ATTACKED,
        attack=PGD(MEDIUM, num_steps=1, step_size=0.125, keep="last"),
    ),
    "kap_at": trained(KAP(network=NETWORK, sigma=0.1), NOISE_OFF, attack=TRAINED_BY),
    "parl_at": trained(PARL(network=ENSEMBLE, num_layers=3), ensemble(), attack=TRAINED_BY),
    "regroup": fitted("plain"),
    "regroup_at": fitted("pgd_at"),
}
VARIANTS["default"] = VARIANTS["plain"]

STUDY = Study(
    title="MNIST: what each defence leaves",
    rows={
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
    },
    threats=(SMALL, MEDIUM, LARGE),
)


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a row."""
    return changes.named(VARIANTS[variant], "mnist", variant)
