"""Random layer sampling on MNIST: ResNet-50 and VGG-16, M = 2, K = 3, N = 10.

    python train.py configs/rls_mnist.py            # ResNet-50
    python train.py configs/rls_mnist.py:vgg16
    python train.py configs/rls_mnist.py:baseline   # a plain network, trained and attacked alike

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020 (%; eps and c as there, for pixels in [-1, 1]). Table 1, ResNet-50; table 2, VGG-16:

| attack      | baseline | RLS  | | attack      | baseline | RLS  |
|-------------|----------|------|-|-------------|----------|------|
| none        | 99.5     | 99.6 | | none        | 98.2     | 99.1 |
| FGSM .1     | 89.5     | 98.6 | | FGSM .4     | 67.3     | 84.3 |
| FGSM .2     | 44.1     | 70.4 | | FGSM .8     | 16.7     | 28.6 |
| PGD .05     | 68.3     | 86.4 | | PGD .1      | 66.55    | 83.9 |
| PGD .1      | 30.8     | 62.5 | | PGD .2      | 23.57    | 49.1 |
| DeepFool    | 3.7      | 91.4 | | DeepFool    | 1.7      | 82.2 |
| C&W .1 / 1  | 43.7 / 13.8 | 83.9 / 75.3 | | C&W .1 / 1 | 58.5 / 15.2 | 89.5 / 65.8 |
| EAD .1 / 1  | 35.9 / 12.8 | 68.0 / 48.3 | | EAD .1 / 1 | 48.1 / 22.2 | 65.7 / 45.6 |

Table 5, interrater agreement of ten draws (ADP: of its three members), lower is more diverse:
stochastic dropout .53 ± .005 (`sap`), RSE .55 ± .015 (`rse`), ADP .52 (`adp`), RLS .43 ± .021
(`eval/rls.py:table5`, `table5_one_draw`, `table5_deterministic`).

Ours: not yet run.
"""

from robust_jax.experiment.config import Config

from .recipes import baselines, changes
from .recipes import rls as recipes

VARIANTS = {
    **recipes.variants("mnist"),  # default, vgg16, baseline, baseline_vgg16
    **baselines.compared_with_rls("mnist"),  # adp, rse, sap
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "rls_mnist", variant)
