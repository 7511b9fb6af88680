r"""What defences make of a public CIFAR-10 ensemble in a thousand steps, and what is left of them.

    python -m robust_jax.interop.torch FILE --architecture parl_3x_resnet20 \
        --out runs/parl_3x_resnet20
    python -m robust_jax.study configs/studies/cifar10_finetune.py --data-dir DIR

FILE is the plain ensemble of PARL's authors, three ResNet-20 (93.6 % clean). Each defence starts
from it and takes 1,000 steps of 64 images: SGD at .002 with a cosine, crops and flips. `plain` is
the ensemble as it is; SAP and REGroup train nothing. So this is no defence as its paper trains it,
and says which way a defence pulls, at one size, from one start.

Judged in Linf 1/255 and 4/255: 128 test images, 64 for networks that draw. What recipes/studied.py
says of each family, and PGD's examples of `plain` transferred: the setting of PARL's and LPD's
papers (`paper` of PARL, ADP, GAL, TRS and DVERGE, as in PARL's table 1).

Every attack is its own at the reduced budget, some 800 passes an image in each ball together, for
a pass of this ensemble takes 12 ms an image on two cores: at the full budget the study takes 40
hours, of which MORA's 14 runs and the long runs of the suite are most. What is left can be less.
"""

import dataclasses

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.data import TFDS, Augmentation, DataConfig
from robust_jax.evaluation.protocol import AttackRun, Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    DVERGE,
    PARL,
    AdaptiveDiversityPromoting,
    GradientAlignment,
    MethodConfig,
    PriorityDropout,
    PriorityRates,
    RandomSelfEnsemble,
    REGroup,
    Standard,
    StochasticActivationPruning,
    TransferabilityReducedSmooth,
)
from robust_jax.study import Row, Study
from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
from robust_jax.training.optimizers import Cosine, OptimizerConfig

from ..recipes import changes, studied
from ..recipes.ensembles import PUBLIC_3X_RESNET20, PUBLIC_NORMALIZATION

PUBLIC = "runs/parl_3x_resnet20"
NUM_STEPS = 1000
SMALL, LARGE = (ThreatModel("linf", eps=eps / 255) for eps in (1, 4))
ALONE = studied.Setting(
    (SMALL, LARGE),
    num_examples=128,
    num_random=64,
    certified=False,
    batch_size=64,
    budget="reduced",
)
JUDGED = dataclasses.replace(ALONE, plain="plain")


def _from_plain(threat: ThreatModel) -> AttackRun:
    return studied.transferred(threat, "plain")


DIVERSE = studied.ensemble(JUDGED, paper=_from_plain)
DROPPED = studied.ensemble(JUDGED, paper=studied.last_of_ten)
TRAINED_BY = PGD(LARGE, num_steps=7, step_size=1 / 255)


def finetuned(
    method: MethodConfig, evaluation: Evaluation, *, attack: PGD | None = None, trained: bool = True
) -> Config:
    """Returns the training of a row.

    Args:
        method: the defence, of any network: it is given the public one.
        evaluation: of its family.
        attack: trains adversarially; None for clean training.
        trained: False for the public weights as they are.
    """
    adversarial = None if attack is None else AdversarialTraining(attack)
    return Config(
        name="cifar10_finetune",
        data=DataConfig(
            TFDS("cifar10"),
            validation_size=1000,
            augmentation=Augmentation(crop_padding=4, crop_mode="edge", flip=True),
        ),
        method=dataclasses.replace(
            method, network=PUBLIC_3X_RESNET20, normalization=PUBLIC_NORMALIZATION
        ),
        optimizer=OptimizerConfig(learning_rate=0.002, schedule=Cosine()),
        training=TrainingConfig(
            phases=(Phase(epochs=NUM_STEPS * 64 / 49_000, batch_size=64),) if trained else (),
            max_steps=NUM_STEPS if trained else None,
            adversarial=adversarial,
            init_from=PUBLIC,
            validate_every=0.5,
            validation_examples=200,
            best_by="accuracy" if attack is None else "robust_accuracy",
            validation_attack=None if attack is None else PGD(LARGE, num_steps=10),
        ),
        evaluation=evaluation,
    )


VARIANTS = {
    "plain": finetuned(Standard(), studied.ensemble(ALONE), trained=False),
    "parl": finetuned(
        PARL(), studied.ensemble(JUDGED, vote="majority_mean_probability", paper=_from_plain)
    ),
    "lpd": finetuned(PriorityDropout(), DROPPED),
    "pdd_deg": finetuned(PriorityDropout(rates=PriorityRates(), deg_weight=0.01), DROPPED),
    "adp": finetuned(AdaptiveDiversityPromoting(), DIVERSE),
    "gal": finetuned(GradientAlignment(), DIVERSE),
    "trs": finetuned(TransferabilityReducedSmooth(init_eps=0.01, final_eps=0.03), DIVERSE),
    "dverge": finetuned(DVERGE(), DIVERSE),
    "regroup": finetuned(REGroup(), studied.ranks(JUDGED), trained=False),
    "sap": finetuned(StochasticActivationPruning(), studied.one_draw(JUDGED), trained=False),
    "rse": finetuned(RandomSelfEnsemble(), studied.one_draw(JUDGED)),
    "at": finetuned(Standard(), studied.ensemble(JUDGED), attack=TRAINED_BY),
}
VARIANTS["default"] = VARIANTS["plain"]

STUDY = Study(
    title="CIFAR-10: a public ensemble, fine-tuned",
    rows={
        "plain": Row("plain, as published", "plain"),
        "parl": Row("PARL", "PARL"),
        "lpd": Row("LPD", "LPD"),
        "pdd_deg": Row("PDD + DEG", "LPD"),
        "adp": Row("ADP", "diverse ensembles"),
        "gal": Row("GAL", "diverse ensembles"),
        "trs": Row("TRS", "diverse ensembles"),
        "dverge": Row("DVERGE", "diverse ensembles"),
        "regroup": Row("REGroup", "REGroup"),
        "sap": Row("SAP", "random networks"),
        "rse": Row("RSE", "random networks"),
        "at": Row("PGD-AT", "adversarial training"),
    },
    threats=(SMALL, LARGE),
    note="Every attack is at the reduced budget: longer ones may leave less.",
)


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a row."""
    return changes.named(VARIANTS[variant], "cifar10_finetune", variant)
