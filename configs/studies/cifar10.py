"""What defences leave of CIFAR-10 under an adversary who knows them, ResNet-18 from scratch.

    python -m robust_jax.study configs/studies/cifar10.py --data-dir DIR
    python -m robust_jax.study configs/studies/cifar10.py --only plain kap0.1 pgd_at

For a GPU: the short schedule of benchmarks/accelerator.py for every row, 16 epochs in batches of
256 under one cycle up to a rate of .2 (SGD with momentum, weight decay 5e-4, crops and flips); the
checkpoint of best validation accuracy, under PGD where training attacks. Members of ensembles are
the same network. Adversarial training is by seven steps of PGD in Linf 8/255. So short a schedule
is nobody's recipe: it compares defences with one another, not with their papers.

Judged in Linf 2/255, in which plain training has something to lose, and 8/255: 1,000 test images,
500 for networks that draw. What recipes/studied.py says of each family. Not run.
"""

import dataclasses

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.data import TFDS, Augmentation, DataConfig
from robust_jax.evaluation.protocol import AttackRun, Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    DVERGE,
    KAP,
    PARL,
    TRADES,
    AdaptiveDiversityPromoting,
    KernelPool,
    MethodConfig,
    PriorityDropout,
    PriorityRates,
    RandomLayerSampling,
    RandomSelfEnsemble,
    REGroup,
    Standard,
    StochasticActivationPruning,
)
from robust_jax.models import EnsembleConfig, ResNetConfig
from robust_jax.study import Study
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig, PiecewiseLinear

from ..recipes import changes, studied

NETWORK = ResNetConfig()
ENSEMBLE = EnsembleConfig(NETWORK, 3)
SMALL, LARGE = (ThreatModel("linf", eps=eps / 255) for eps in (2, 8))
TRAINED_BY = PGD(LARGE, num_steps=7, step_size=2 / 255)
EPOCHS = 16.0
ONE_CYCLE = PiecewiseLinear((0.0, 0.3 * EPOCHS, EPOCHS), (0.1, 1.0, 0.0))

JUDGED = studied.Setting(
    (SMALL, LARGE), num_examples=1000, num_random=500, certified=False, batch_size=500
)


def _from_ensemble(threat: ThreatModel) -> AttackRun:
    return studied.transferred(threat, "ensemble")


NETWORK_RUNS, ENSEMBLE_RUNS = studied.network(JUDGED), studied.ensemble(JUDGED)
DROPPED = studied.ensemble(JUDGED, paper=studied.last_of_ten)
TRANSFERRED = studied.ensemble(JUDGED, paper=_from_ensemble)
NOISE_OFF, ONE_DRAW = studied.noise_off(JUDGED), studied.one_draw(JUDGED)


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
        name="cifar10",
        data=DataConfig(
            TFDS("cifar10"),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, flip=True),
        ),
        method=method,
        optimizer=OptimizerConfig(learning_rate=0.2, weight_decay=5e-4, schedule=ONE_CYCLE),
        training=TrainingConfig(
            phases=(Phase(epochs=EPOCHS, batch_size=256),),
            adversarial=adversarial,
            best_by="robust_accuracy" if attacked else "accuracy",
            validation_attack=PGD(LARGE, num_steps=10) if attacked else None,
        ),
        evaluation=evaluation,
    )


def fitted(after: str) -> Config:
    """Returns REGroup of another row, which it starts from."""
    config = trained(REGroup(network=NETWORK), studied.ranks(JUDGED))
    return changes.with_training(config, phases=(), init_from=f"runs/studies/cifar10/{after}/seed0")


VARIANTS = {
    "plain": trained(Standard(network=NETWORK), NETWORK_RUNS),
    "ensemble": trained(Standard(network=ENSEMBLE), ENSEMBLE_RUNS),
    "nt0.1": trained(KAP(network=NETWORK, pool=KernelPool(kernel_size=1), sigma=0.1), NOISE_OFF),
    "kap0.1": trained(KAP(network=NETWORK, sigma=0.1), NOISE_OFF),
    "kap0.2": trained(KAP(network=NETWORK, sigma=0.2), NOISE_OFF),
    "kmp0.1": trained(KAP(network=NETWORK, pool=KernelPool("max"), sigma=0.1), NOISE_OFF),
    "rls": trained(RandomLayerSampling(network=NETWORK), studied.layers(JUDGED)),
    "lpd": trained(PriorityDropout(network=ENSEMBLE), DROPPED),
    "pdd_deg": trained(
        PriorityDropout(network=ENSEMBLE, rates=PriorityRates(), deg_weight=0.01), DROPPED
    ),
    "parl": trained(
        PARL(network=ENSEMBLE),
        studied.ensemble(JUDGED, vote="majority_mean_probability", paper=_from_ensemble),
    ),
    "adp": trained(AdaptiveDiversityPromoting(network=ENSEMBLE), DROPPED),
    "dverge": trained(DVERGE(network=ENSEMBLE), TRANSFERRED),
    "rse": trained(RandomSelfEnsemble(network=NETWORK), ONE_DRAW),
    "sap": trained(StochasticActivationPruning(network=NETWORK), ONE_DRAW),
    "gaussian": trained(Standard(network=NETWORK, input_sigma=0.25), NETWORK_RUNS),
    "pgd_at": trained(Standard(network=NETWORK), NETWORK_RUNS, attack=TRAINED_BY),
    "trades": trained(
        TRADES(
            network=NETWORK, attack=dataclasses.replace(TRAINED_BY, loss="kl", start_sigma=0.001)
        ),
        NETWORK_RUNS,
    ),
    "fast_at": trained(
        Standard(network=NETWORK),
        NETWORK_RUNS,
        attack=PGD(LARGE, num_steps=1, step_size=10 / 255, keep="last"),
    ),
    "kap_at": trained(KAP(network=NETWORK, sigma=0.1), NOISE_OFF, attack=TRAINED_BY),
    "regroup": fitted("plain"),
    "regroup_at": fitted("pgd_at"),
}
VARIANTS["default"] = VARIANTS["plain"]

STUDY = Study(
    title="CIFAR-10: what each defence leaves",
    rows={name: studied.ROWS[name] for name in VARIANTS if name != "default"},
    threats=(SMALL, LARGE),
    checkpoints=("plain", "pgd_at"),
)


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a row."""
    return changes.named(VARIANTS[variant], "cifar10", variant)
