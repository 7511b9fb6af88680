"""What every defence leaves of MNIST under an adversary who knows it, on one small network.

    python -m robust_jax.study configs/studies/mnist.py --data-dir DIR
    python -m robust_jax.study configs/studies/mnist.py --only kap0.1 pgd_at
    python train.py configs/studies/mnist.py:kap0.1           # one row by itself

One network of 48,101 parameters (three convolutions and a linear layer; each member of an ensemble
is one), five epochs of Adam with a cosine, batches of 128, for all rows; the checkpoint of best
validation accuracy, under PGD where training attacks. No augmentation, no normalisation. Each
defence has its paper's own strength where that is said for MNIST, otherwise its defaults.
Adversarial training is by seven steps of PGD in Linf .1.

Judged in Linf .1, the adversarially trained in .3 too: 500 test images, 200 for random methods,
whose every pass is several. `paper` is the attack that the method's paper judges by, seen and
counted as there; `frugal` the suite of few passes; then what attacks the method's own ways:
MORA and ARC on ensembles, EOT, noise off and fixed draws on random networks, differentiable ranks
on REGroup, and Square, which needs no gradient.
"""

import dataclasses

from robust_jax.attacks import (
    APGD,
    ARC,
    MORA,
    PGD,
    Attack,
    FrugalAttack,
    Square,
    ThreatModel,
)
from robust_jax.certify import Margins
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
from robust_jax.study import FRUGAL, Row, Study
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import Cosine, OptimizerConfig

from ..recipes import changes

NETWORK = CNNConfig(widths=(25, 49, 81), strides=(2, 2, 1))
ENSEMBLE = EnsembleConfig(NETWORK, 3)
SMALL, LARGE = ThreatModel("linf", eps=0.1), ThreatModel("linf", eps=0.3)
TRAINED_BY = PGD(SMALL, num_steps=7, step_size=0.025)
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
            validation_attack=PGD(SMALL, num_steps=10) if attacked else None,
        ),
        evaluation=evaluation,
    )


def judged(
    paper: AttackRun,
    adaptive: dict[str, AttackRun],
    *,
    papers_rule: Judge | None = None,
    honest: Judge | None = None,
    further: dict[str, Judge] | None = None,
    skip_misclassified: bool = True,
    num_examples: int = 500,
    certified: bool = True,
) -> Evaluation:
    """Returns an evaluation with the paper's attack and its own adversaries.

    Args:
        paper: as the method's paper attacks.
        adaptive: by name, what knows the method.
        papers_rule: as the paper counts; None for the deployed rule, once.
        honest: None for the mean of ten draws.
        further: columns besides.
        skip_misclassified: see `Adversary`.
        num_examples: test images.
        certified: bound the margins of the first hundred?
    """
    runs = {name: dataclasses.replace(run, adaptive=True) for name, run in adaptive.items()}
    return Evaluation(
        attacks={PAPER: paper, **runs},
        judges=side_by_side(papers_rule, honest) | (further or {}),
        certificates={"CROWN": Margins(SMALL.eps)} if certified else {},
        num_certified=100,
        selection=Selection(num_examples=num_examples),
        adversary=Adversary(skip_misclassified=skip_misclassified, num_submissions=10),
        batch_size=128,
    )


def pgd(threat: ThreatModel, num_steps: int = 20) -> PGD:
    """Returns the common PGD of papers."""
    return PGD(threat, num_steps=num_steps, step_size=threat.eps / 10)


def network(*, both: bool = False) -> Evaluation:
    """Returns the evaluation of one deterministic network.

    Args:
        both: in the large ball too?
    """
    runs = {FRUGAL: AttackRun(FrugalAttack(SMALL)), "square": AttackRun(Square(SMALL))}
    if both:
        runs |= {
            "frugal_0.3": AttackRun(FrugalAttack(LARGE)),
            "square_0.3": AttackRun(Square(LARGE)),
        }
    return judged(AttackRun(pgd(SMALL)), runs)


def ensemble() -> Evaluation:
    """Returns the evaluation of members that vote."""
    members: dict[str, Attack] = {
        "mora": MORA(SMALL, rule="voting"), "arc": ARC(SMALL, first=APGD(SMALL))
    }  # fmt: skip
    runs = {
        FRUGAL: AttackRun(FrugalAttack(SMALL)),
        **{name: AttackRun(attack, view="members") for name, attack in members.items()},
        "square": AttackRun(Square(SMALL), view="decision"),
    }
    one = {"one member": Judge(view="members", rule="paper")}
    return judged(AttackRun(pgd(SMALL)), runs, further=one, skip_misclassified=False)


def random(paper: AttackRun, one_draw: str, papers_rule: Judge | None = None) -> Evaluation:
    """Returns the evaluation of a network that draws.

    Args:
        paper: as its paper attacks.
        one_draw: view of a single pass.
        papers_rule: as its paper counts.
    """
    fixed = {"eot_samples": 5, "draws": "fixed"}
    runs = {
        FRUGAL: AttackRun(FrugalAttack(SMALL), view="noise_off"),
        "apgd_eot10": AttackRun(APGD(SMALL, num_steps=50), view=one_draw, eot_samples=10),
        "apgd_margin_eot10": AttackRun(
            APGD(SMALL, num_steps=50, loss="margin"), view=one_draw, eot_samples=10
        ),
        "square_fixed": AttackRun(Square(SMALL, num_queries=1000), view=one_draw, **fixed),
    }
    return judged(paper, runs, papers_rule=papers_rule, num_examples=200, certified=False)


def regroup() -> Evaluation:
    """Returns the evaluation of ranks: the paper attacks the softmax network."""
    views = ("deployed", "deployed_1", "kl_margin", "feature_match")
    runs = {f"pgd40_{view}": AttackRun(PGD(SMALL, num_steps=40, loss="margin"), view=view)
            for view in views}  # fmt: skip
    runs[FRUGAL] = AttackRun(FrugalAttack(SMALL), view="kl_margin")
    runs["square"] = AttackRun(Square(SMALL), view="decision")
    return judged(AttackRun(pgd(SMALL, 40), view="surrogate"), runs, certified=False)


NOISE_OFF = random(
    AttackRun(pgd(SMALL), view="noise_off"),
    "deployed",
    Judge(view="noise_off", rule="paper"),
)
LAYERS = random(AttackRun(pgd(SMALL, 10), view="frozen_1"), "fresh")
ONE_DRAW = random(AttackRun(pgd(SMALL), view="one_draw"), "one_draw")
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
    "pgd_at": trained(Standard(network=NETWORK), network(both=True), attack=TRAINED_BY),
    "trades": trained(TRADES(network=NETWORK, attack=SEVEN_STEPS), network(both=True)),
    "mart": trained(MART(network=NETWORK, attack=TRAINED_BY), network(both=True)),
    "fast_at": trained(
        Standard(network=NETWORK),
        network(both=True),
        attack=PGD(SMALL, num_steps=1, step_size=0.125, keep="last"),
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
    threats=(SMALL, LARGE),
)


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a row."""
    return changes.named(VARIANTS[variant], "mnist", variant)
