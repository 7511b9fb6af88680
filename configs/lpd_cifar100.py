"""LPD and PDD on CIFAR-100: ensembles of 3 and 5 ResNet-18.

    python train.py configs/lpd_cifar100.py            # LPD, K = 3
    python train.py configs/lpd_cifar100.py:pdd_five   # PDD with DEG, K = 5
    python evaluate.py --checkpoint runs/lpd_cifar100 --config configs/eval/lpd.py:figure3

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023; the baseline is `ensemble_cifar100.py`, ADP's rows are in `adp_cifar100.py`.

Table 1, entropy E of the members' decisions (equation 7):

| K | baseline | PDD                | LPD              |
|---|----------|--------------------|------------------|
| 3 | 0.1905   | 0.2277 (pdd)       | 0.2631 (default) |
| 5 | 0.1874   | 0.2462 (pdd_five)  | 0.2784 (five)    |

Table 5, black-box attacks (%; type I from plain 3 x VGG-16, II from 3 x ResNet-34 of the same
defence, `resnet34` and `pdd_resnet34`):

| type | attack | size | baseline | PDD   | LPD   |
|------|--------|------|----------|-------|-------|
| I    | PGD    | .02  | 40.31    | 60.49 | 65.14 |
| I    | PGD    | .04  | 15.47    | 30.38 | 34.80 |
| I    | JSMA   | .05  | 66.81    | 72.35 | 77.45 |
| I    | JSMA   | .1   | 55.93    | 62.24 | 68.93 |
| II   | PGD    | .01  | 77.15    | 87.37 | 85.27 |
| II   | PGD    | .02  | 56.63    | 77.60 | 73.08 |
| II   | JSMA   | .05  | 56.33    | 69.32 | 74.24 |
| II   | JSMA   | .1   | 35.91    | 58.71 | 66.21 |

Table 6, with adversarial training, FGSM .04 and .08, then PGD .02 and .04 (%):

| training, row          | variant                        | accuracy                   |
|------------------------|--------------------------------|----------------------------|
| AdvT FGSM              | ensemble_cifar100.py:at_fgsm   | 41.06, 20.80, 20.15, 3.62  |
| AdvT FGSM + PDD        | pdd_at_fgsm                    | 59.64, 27.09, 38.17, 19.50 |
| AdvT FGSM + LPD        | at_fgsm                        | 61.23, 29.45, 40.42, 21.30 |
| AdvT PGD               | ensemble_cifar100.py:at_pgd    | 44.14, 21.67, 44.11, 15.69 |
| AdvT PGD + PDD         | pdd_at_pgd                     | 55.56, 34.68, 51.02, 26.13 |
| AdvT PGD + LPD         | at_pgd                         | 56.74, 36.35, 53.11, 27.52 |

Ours: not yet run.
"""

from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.experiment.config import Config
from robust_jax.methods import PriorityDropout, PriorityRates

from .eval.lpd import table4
from .recipes import changes
from .recipes import ensembles as recipes

EVALUATION = table4((0.04, 0.08), (0.02, 0.04))
LPD = recipes.lpd("cifar100", PriorityDropout(network=recipes.resnet18_ensemble()), EVALUATION)
PDD = changes.with_method(LPD, rates=PriorityRates(), deg_weight=0.01)

FIVE, DEEP = recipes.resnet18_ensemble(5), recipes.resnet18_ensemble(depth=34)
# eps is not given; .03 is the usual size on CIFAR.
THREAT = ThreatModel("linf", eps=0.03)
AT_FGSM, AT_PGD = FGSM(THREAT), PGD(THREAT, num_steps=10)

VARIANTS = {
    "default": LPD,
    "pdd": PDD,
    "five": changes.with_method(LPD, network=FIVE),
    "pdd_five": changes.with_method(PDD, network=FIVE, rates=PriorityRates(num_intervals=20)),
    "resnet34": changes.with_method(LPD, network=DEEP),
    "pdd_resnet34": changes.with_method(PDD, network=DEEP),
    "at_fgsm": recipes.adversarially_trained(LPD, AT_FGSM),
    "at_pgd": recipes.adversarially_trained(LPD, AT_PGD),
    "pdd_at_fgsm": recipes.adversarially_trained(PDD, AT_FGSM),
    "pdd_at_pgd": recipes.adversarially_trained(PDD, AT_PGD),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "lpd_cifar100", variant)
