"""LPD and PDD on TinyImageNet at 64 x 64: ensembles of 3 and 5 ResNet-18 with the CIFAR stem.

    python train.py configs/lpd_tiny_imagenet.py       # LPD, K = 3
    python evaluate.py --checkpoint DIR --config configs/eval/lpd.py:table4_tiny_imagenet

`--data.source.path DIR` says where TinyImageNet is unpacked.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023. Table 4 (%; robust accuracy counts only images that were right without attack, which is
how JSMA's can exceed clean accuracy):

| attack        | baseline (ensemble_tiny_imagenet.py) | PDD (pdd)    | LPD (default) |
|---------------|--------------------------------------|--------------|---------------|
| none          | 67.36                                | 64.68        | 64.17         |
| FGSM .02, .04 | 18.87, 7.44                          | 45.63, 24.92 | 50.85, 30.61  |
| BIM .01, .02  | 16.87, 3.30                          | 34.22, 16.35 | 41.24, 21.62  |
| PGD .01, .02  | 22.85, 5.30                          | 39.16, 17.49 | 44.22, 25.34  |
| JSMA .05, .1  | 43.64, 26.18                         | 65.78, 52.09 | 69.68, 57.47  |
| C&W .1        | 3.57                                 | 27.76        | 25.34         |

Table 1, entropy E of the members' decisions: K = 3 baseline 0.2553, PDD 0.4117, LPD 0.4624; K = 5
0.2624, 0.4126 (pdd_five), 0.4667 (five).

ADP's rows are in `adp_tiny_imagenet.py`.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import PriorityDropout, PriorityRates

from .eval.lpd import table4
from .recipes import changes
from .recipes import ensembles as recipes

LPD = recipes.lpd(
    "tiny_imagenet",
    PriorityDropout(network=recipes.resnet18_ensemble()),
    table4((0.02, 0.04), (0.01, 0.02)),
)
PDD = changes.with_method(LPD, rates=PriorityRates(), deg_weight=0.01)
FIVE = recipes.resnet18_ensemble(5)

VARIANTS = {
    "default": LPD,
    "pdd": PDD,
    "five": changes.with_method(LPD, network=FIVE),
    "pdd_five": changes.with_method(PDD, network=FIVE, rates=PriorityRates(num_intervals=20)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "lpd_tiny_imagenet", variant)
