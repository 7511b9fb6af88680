"""Random layer sampling on SVHN: ResNet-50 and VGG-16, M = 2, K = 3, N = 10.

    python train.py configs/rls_svhn.py            # ResNet-50
    python train.py configs/rls_svhn.py:vgg16
    python train.py configs/rls_svhn.py:baseline   # a plain network, trained and attacked alike

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020 (%; eps and c as there, for pixels in [-1, 1]). Table 1, ResNet-50; table 2, VGG-16:

| attack      | baseline | RLS  | | attack      | baseline | RLS  |
|-------------|----------|------|-|-------------|----------|------|
| none        | 96.2     | 97.6 | | none        | 96.5     | 97.0 |
| FGSM .05    | 40.4     | 56.2 | | FGSM .1     | 27.8     | 40.1 |
| FGSM .1     | 28.5     | 41.0 | | FGSM .2     | 17.4     | 26.8 |
| PGD .01     | 66.0     | 88.4 | | PGD .02     | 42.5     | 74.0 |
| PGD .02     | 35.3     | 68.5 | | PGD .04     | 18.4     | 45.0 |
| DeepFool    | 1.1      | 84.1 | | DeepFool    | 1.3      | 68.4 |
| C&W .01 / .1 | 38.8 / 9.5 | 92.3 / 75.7 | | C&W .01 / .1 | 47.1 / 13.9 | 88.6 / 68.5 |
| EAD .01 / .1 | 29.8 / 5.9 | 80.3 / 69.2 | | EAD .01 / .1 | 18.0 / 3.8 | 67.4 / 61.2 |

Table 5, interrater agreement of ten draws (ADP: of its three members), lower is more diverse:
stochastic dropout .62 ± .003 (`sap`), RSE .66 ± .024 (`rse`), ADP .62 (`adp`), RLS .58 ± .023
(`eval/rls.py:table5`, `table5_one_draw`, `table5_deterministic`).

Ours: not yet run.
"""

from robust_jax.experiment.config import Config

from .recipes import baselines, changes
from .recipes import rls as recipes

VARIANTS = {
    **recipes.variants("svhn"),  # default, vgg16, baseline, baseline_vgg16
    **baselines.compared_with_rls("svhn"),  # adp, rse, sap
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "rls_svhn", variant)
