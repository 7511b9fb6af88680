"""Stochastic activation pruning (SAP) on CIFAR-10, of networks that are trained already.

    python evaluate.py --checkpoint runs/rls_cifar10-baseline --method configs/sap_cifar10.py
    python evaluate.py --checkpoint runs/resnet20_akamaster \
        --method configs/sap_cifar10.py:resnet20 --config configs/eval/kap.py:tableA1

`--method` puts the pruning on any checkpoint of the same network; its weights stay as they are.
`python train.py configs/sap_cifar10.py` trains the plain network first; its own attacks see one
fresh pass at every step, those of the commands above the mean of ten.

Dhillon et al., "Stochastic Activation Pruning for Robust Adversarial Defense", ICLR 2018. The RLS
paper's table 3 has "Stochastic Dropout", whose reference has the tag that its text has beside
Dhillon et al., so it is read as this (ResNet-50, %): FGSM .01 58.5, PGD .01 59.0, DeepFool 56.4,
C&W .01 53.4, EAD .01 38.1. Its other reading, dropout at prediction, is
`ensemble_cifar10.py:dropout`.

Variants: `default`, the ResNet-50 of `rls_cifar10.py:baseline`, ten passes (the paper's number of
samples); `independent`, activations kept independently, cheaper; `resnet20`, a public ResNet-20
(`python -m robust_jax.interop.torch resnet20.th --architecture resnet20_akamaster`), and
`resnet20_fraction3`, with three draws an activation, and `resnet20_fraction3_independent`, which
keeps each activation with the same probability by itself (the draws of the others cost 30 times
the network).

Ours, the public ResNet-20 on the first 200 test images, clean (%; intervals of 7 points on either
side): without pruning 93.5; pruned as in the paper (fraction 1) 54.0 in one pass; independently
58.5 in one pass and 66.0 by ten, with fraction 3 92.0 and 93.5. `resnet20_fraction3_independent`
through `eval/rls.py:honest_one_draw` on the first 64 (reduced budget, 4 draws of EOT; 63 right
clean; intervals of 12 points), eps .01 of pixels in [-1, 1], images left:

| attack                          | as the RLS paper judges | mean of 2 predictions |
|---------------------------------|-------------------------|-----------------------|
| FGSM on one pass                | 48                      | 48                    |
| PGD-10 on one pass              | 43                      | 42                    |
| FGSM through EOT                | 38                      | 38                    |
| PGD-10 through EOT              | 36                      | 38                    |
| APGD on the network not pruned  | -                       | 10                    |

Pruning hides a gradient that the network without it shows: the paper's row says 67 %, transfer from
the same weights leaves 16 %. APGD through passes and Square were stopped for time. The paper's own
ResNet-20 is another, with its activations before the convolutions. The ResNet-50: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import StochasticActivationPruning
from robust_jax.models import Normalization, ResNetConfig

from .recipes import baselines, changes, rls

RESNET50 = baselines.compared_with_rls("cifar10")["sap"]
RESNET20 = baselines.cifar10(
    StochasticActivationPruning(
        network=ResNetConfig(depth=20, shortcut="A"),
        normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        num_draws=10,
    ),
    baselines.SGD,
    rls.evaluation("cifar10", "resnet50", view="one_draw"),
)

VARIANTS = {
    "default": RESNET50,
    "independent": changes.with_method(RESNET50, draws="independent"),
    "resnet20": RESNET20,
    "resnet20_fraction3": changes.with_method(RESNET20, fraction=3.0),
    "resnet20_fraction3_independent": changes.with_method(
        RESNET20, fraction=3.0, draws="independent"
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "sap_cifar10", variant)
