"""What every defence leaves of MNIST under an adversary who knows it, on one small network.

    python -m robust_jax.study configs/studies/mnist.py --data-dir DIR
    python -m robust_jax.study configs/studies/mnist.py --only kap0.1 pgd_at
    python train.py configs/studies/mnist.py:kap0.1           # one row by itself

One network of 48,101 parameters (three convolutions and a linear layer; each member of an ensemble
is one), five epochs of Adam with a cosine, batches of 128, for all rows; the checkpoint of best
validation accuracy, under PGD where training attacks. No augmentation, no normalisation. Each
defence has its paper's own strength where that is said for MNIST, otherwise its defaults; but RLS
averages 5 draws, not 10, which halves its cost.
Adversarial training is by seven steps of PGD in Linf .1.

Judged in Linf .03, in which plain training leaves something to lose, and in .1; the adversarially
trained in .3 too: 500 test images, 200 for random methods, whose every pass is several. In each
ball `paper` is the attack of the method's paper at that radius (recipes/studied.py says how far);
`frugal` the suite of few passes; then what attacks the method's own ways:
MORA and ARC on ensembles, EOT, noise off and fixed draws on random networks, differentiable ranks
on REGroup, and Square, which needs no gradient (1,000 queries).
"""

import dataclasses

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.data import TFDS, DataConfig
from robust_jax.evaluation.protocol import AttackRun, Evaluation
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
from robust_jax.study import Study
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import Cosine, OptimizerConfig

from ..recipes import changes, studied

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


def _from_ensemble(threat: ThreatModel) -> AttackRun:
    return studied.transferred(threat, "ensemble")


JUDGED = studied.Setting((SMALL, MEDIUM), num_examples=500, num_random=200)
NETWORK_RUNS, ENSEMBLE_RUNS = studied.network(JUDGED), studied.ensemble(JUDGED)
# The papers of these transfer from an ensemble of the same kind that they do not train.
TRANSFERRED = studied.ensemble(JUDGED, paper=_from_ensemble)
BY_MAJORITY = studied.ensemble(  # PARL's
    JUDGED, vote="majority_mean_probability", paper=_from_ensemble
)
DROPPED = studied.ensemble(JUDGED, paper=studied.last_of_ten)
NOISE_OFF, LAYERS = studied.noise_off(JUDGED), studied.layers(JUDGED)
ONE_DRAW, RANKS = studied.one_draw(JUDGED), studied.ranks(JUDGED)
TRAINED_ATTACKED = studied.network(dataclasses.replace(JUDGED, threats=(SMALL, MEDIUM, LARGE)))
SEVEN_STEPS = dataclasses.replace(TRAINED_BY, loss="kl", start_sigma=0.001)


def fitted(after: str) -> Config:
    """Returns REGroup of another row, which it starts from."""
    method = REGroup(network=NETWORK, num_layers=None, images_per_class=1000)  # its rule: 75 %
    config = trained(method, RANKS)
    return changes.with_training(config, phases=(), init_from=f"runs/studies/mnist/{after}/seed0")


VARIANTS = {
    "plain": trained(Standard(network=NETWORK), NETWORK_RUNS),
    "ensemble": trained(Standard(network=ENSEMBLE), ENSEMBLE_RUNS),
    "nt0.1": trained(
        # Noise without kernels that are pooled: the KAP paper's control.
        KAP(network=NETWORK, pool=KernelPool(kernel_size=1), sigma=0.1),
        NOISE_OFF,
    ),
    "kap0.1": trained(KAP(network=NETWORK, sigma=0.1), NOISE_OFF),
    "kap0.2": trained(KAP(network=NETWORK, sigma=0.2), NOISE_OFF),
    "kmp0.1": trained(KAP(network=NETWORK, pool=KernelPool("max"), sigma=0.1), NOISE_OFF),
    "rls": trained(RandomLayerSampling(network=NETWORK, num_samples=3, num_draws=5), LAYERS),
    "lpd": trained(PriorityDropout(network=ENSEMBLE), DROPPED),
    "pdd_deg": trained(
        PriorityDropout(network=ENSEMBLE, rates=PriorityRates(), deg_weight=0.01), DROPPED
    ),
    "parl": trained(PARL(network=ENSEMBLE, num_layers=3), BY_MAJORITY),
    "adp": trained(AdaptiveDiversityPromoting(network=ENSEMBLE), DROPPED),
    "gal": trained(
        GradientAlignment(
            network=EnsembleConfig(
                dataclasses.replace(NETWORK, activation="leaky_relu", negative_slope=0.1), 3
            )
        ),
        TRANSFERRED,
    ),
    "dverge": trained(DVERGE(network=ENSEMBLE, eps=0.1, step_size=0.01), TRANSFERRED),
    "trs": trained(TransferabilityReducedSmooth(network=ENSEMBLE), ENSEMBLE_RUNS),
    "rse": trained(RandomSelfEnsemble(network=NETWORK), ONE_DRAW),
    "sap": trained(StochasticActivationPruning(network=NETWORK, num_draws=10), ONE_DRAW),
    "batch_ensemble": trained(BatchEnsemble(network=NETWORK), ENSEMBLE_RUNS),
    "gaussian": trained(Standard(network=NETWORK, input_sigma=0.25), NETWORK_RUNS),
    "pgd_at": trained(Standard(network=NETWORK), TRAINED_ATTACKED, attack=TRAINED_BY),
    "trades": trained(TRADES(network=NETWORK, attack=SEVEN_STEPS), TRAINED_ATTACKED),
    "mart": trained(MART(network=NETWORK, attack=TRAINED_BY), TRAINED_ATTACKED),
    "fast_at": trained(
        Standard(network=NETWORK),
        TRAINED_ATTACKED,
        attack=PGD(MEDIUM, num_steps=1, step_size=0.125, keep="last"),
    ),
    "kap_at": trained(KAP(network=NETWORK, sigma=0.1), NOISE_OFF, attack=TRAINED_BY),
    "parl_at": trained(PARL(network=ENSEMBLE, num_layers=3), BY_MAJORITY, attack=TRAINED_BY),
    "regroup": fitted("plain"),
    "regroup_at": fitted("pgd_at"),
}
VARIANTS["default"] = VARIANTS["plain"]

STUDY = Study(
    title="MNIST: what each defence leaves",
    rows={name: studied.ROWS[name] for name in VARIANTS if name != "default"},
    threats=(SMALL, MEDIUM, LARGE),
    checkpoints=("plain", "ensemble", "kap0.1", "pgd_at"),
)


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a row."""
    return changes.named(VARIANTS[variant], "mnist", variant)
