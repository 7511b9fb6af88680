"""Random layer sampling on CIFAR-10: ResNet-50 and VGG-16, M = 2, K = 3, N = 10.

    python train.py configs/rls_cifar10.py            # ResNet-50
    python train.py configs/rls_cifar10.py:vgg16
    python train.py configs/rls_cifar10.py:baseline   # a plain network, trained and attacked alike

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020 (%; eps and c as there, for pixels in [-1, 1]). Table 1, ResNet-50; table 2, VGG-16:

| attack      | baseline | RLS  | | attack      | baseline | RLS  |
|-------------|----------|------|-|-------------|----------|------|
| none        | 95.1     | 96.7 | | none        | 92.1     | 93.7 |
| FGSM .01    | 45.4     | 65.1 | | FGSM .1     | 45.4     | 53.3 |
| FGSM .02    | 35.6     | 48.1 | | FGSM .2     | 22.0     | 28.1 |
| PGD .01     | 36.4     | 70.9 | | PGD .01     | 54.7     | 78.8 |
| PGD .02     | 12.0     | 39.2 | | PGD .02     | 37.4     | 58.9 |
| DeepFool    | 0.4      | 84.9 | | DeepFool    | 0.9      | 67.9 |
| C&W .01 / .1 | 41.7 / 16.4 | 91.7 / 87.9 | | C&W .01 / .1 | 61.0 / 18.2 | 91.5 / 74.3 |
| EAD .01 / .1 | 26.2 / 10.8 | 79.0 / 47.6 | | EAD .01 / .1 | 51.4 / 28.5 | 84.3 / 44.9 |

Table 4, attacker on 1, 5, 10, 15 sampled models (`eval/rls.py:table4`): FGSM .01 65.1, 60.5, 58.7,
63.1; PGD .01 70.9, 65.3, 60.9, 60.2; C&W .01 91.7, 84.5, 82.3, 81.7. (FGSM rises again at 15: its
optimisation failed there.) Table 6, one sampled model or member attacked (`eval/rls.py:table6`;
`table6_ensemble`; what train.py runs after `ensembleN` attacks the whole ensemble):

| row             | variant   | FGSM .01 | PGD .01 | C&W .01 |
|-----------------|-----------|----------|---------|---------|
| base ensemble 3 | ensemble3 | 50.2     | 53.7    | 46.7    |
| base ensemble 5 | ensemble5 | 51.1     | 55.2    | 47.6    |
| RLS, N = 5      | draws5    | 64.8     | 70.3    | 91.5    |
| RLS, N = 10     | default   | 65.2     | 70.8    | 91.7    |
| RLS, N = 15     | draws15   | 65.1     | 70.9    | 91.7    |

Table 3 (%; ResNet-50; eps and c .01) and table 5 (interrater agreement, lower is more diverse):

| row                | variant  | FGSM | PGD  | DeepFool | C&W  | EAD  | agreement |
|--------------------|----------|------|------|----------|------|------|-----------|
| no defense         | baseline | 45.4 | 36.4 | 0.4      | 41.7 | 26.2 | -         |
| ADP                | adp      | 70.2 | 61.7 | 20.3     | 52.0 | 61.9 | .54       |
| RSE                | rse      | 51.8 | 45.8 | 82.1     | 91.2 | 75.4 | .60 ± .031 |
| Stochastic Dropout | sap      | 58.5 | 59.0 | 56.4     | 53.4 | 38.1 | .58 ± .004 |
| RLS                | default  | 65.1 | 70.9 | 84.9     | 91.7 | 79.0 | .51 ± .018 |

How the paper trained the other defences is not said: see recipes/baselines.py.

Choices of the method: `block` (one draw per residual block), `mse` and `mean_cross_entropy` (the
other losses), `reestimated` (statistics after training).

These numbers are those of an attacker who does not know the draw; `eval/rls.py:honest` attacks
the random network itself.

Ours: not yet run by this recipe. A narrow VGG-11 with BatchNorm (widths 16, 32, 64, 64, 64), M = 2,
K = 3, N = 10, after 300 steps of batch size 128 at a rate of .05, on the first 256 test images (%):
clean 35.9 (intervals of 6 points on either side), PGD of .01 (10 steps) on one frozen draw 24.6, on
the mean of 10 fresh draws at every step 29.3.

The same network after one epoch (382 steps; 38.7 clean on 256 images) through `eval/rls.py:honest`
at the reduced budget, 64 images, intervals of 12 points: clean 29.7 by the paper's rule, 32.8 by
the mean of ten predictions; FGSM and PGD of .01 on one frozen draw leave 23.4 and 21.9 by the
paper's rule, the worst of all attacks 25.0 there by the honest one (two images apart: a single
prediction is wrong more often), and 4.7 at 8/255, where the paper has no row. So little trained a
network is weak, not masked: no check is flagged.
"""

from robust_jax.experiment.config import Config

from .recipes import baselines, changes
from .recipes import rls as recipes

VARIANTS = {
    **recipes.variants("cifar10"),  # default, vgg16, baseline, baseline_vgg16
    **baselines.compared_with_rls("cifar10"),
    "ensemble3": recipes.baseline("cifar10", "resnet50", num_members=3),
    "ensemble5": recipes.baseline("cifar10", "resnet50", num_members=5),
    "draws5": recipes.config("cifar10", num_draws=5),
    "draws15": recipes.config("cifar10", num_draws=15),
    "block": recipes.config("cifar10", unit="block"),
    "mse": recipes.config("cifar10", loss="mse_of_mean"),
    "mean_cross_entropy": recipes.config("cifar10", loss="mean_cross_entropy"),
    "reestimated": recipes.config("cifar10", statistics="reestimated"),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "rls_cifar10", variant)
