"""PARL on CIFAR-10: three ResNet-20, gradients of the first 7 convolutions.

    python train.py configs/parl_cifar10.py            # ENS_PARL, H = 7
    python evaluate.py --checkpoint runs/parl_cifar10 --config configs/eval/parl.py:eps0.07

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Alam et al., "PARL: Enhancing Diversity of Ensemble Networks to Resist Adversarial Attacks via
Pairwise Adversarially Robust Loss Function", arXiv 2112.04948v1, 2021. Table 1 (%), adversarial
examples of eps = .07 transferred from a plain ensemble of three ResNet-20:

| row      | variant                     | clean | FGSM  | BIM   | MIM   | PGD   |
|----------|-----------------------------|-------|-------|-------|-------|-------|
| ENS_U    | ensemble_cifar10.py:resnet20 | 93.11 | 21.87 | 7.47  | 7.27  | 1.57  |
| ENS_ADP  | adp_cifar10.py              | 92.99 | 23.53 | 8.13  | 7.53  | 3.08  |
| ENS_GAL  | gal_cifar10.py              | 91.22 | 22.8  | 9.3   | 8.33  | 7.64  |
| ENS_DVERGE | dverge_cifar10.py         | 91.73 | 28.88 | 11.78 | 10.55 | 9.68  |
| ENS_PARL | default                     | 91.09 | 28.37 | 20.80 | 16.17 | 15.65 |

Table 2 and figure 5 (fewer layers, accuracy grows, robustness falls): `layers5`, `layers3`.

Ours: the full training is not yet run. `finetune`, 300 steps of 32 images from the authors' public
plain ensemble (93.6 % clean, 42.6 % under white-box FGSM of .01, first 1,000 test images): 85.5 %
clean (an earlier run of the same seed, compiled otherwise, 86.6), 42.6 % under FGSM; the mean
cosine falls from -.03 (steps 1 to 10) to -.39 (step 100) and -.45 (step 300; no three vectors can
go below -.5), the members' summed cross-entropy rises from .81 to 1.28; no gradient is dead.
`eval/parl.py:honest` at the reduced budget, of 64 random images (87.5 % right, no check flagged),
after 300 steps, and after the first 100 (84.5 % of the 1,000 clean, 85.9 % of the 64); MORA was
then APGD on the members' logits, each divided by its own gap:

| eps                  | .01 | .03 | .01, 100 steps | .03, 100 steps |
|----------------------|------|------|------|------|
| PGD, the paper's     | 14.1 | 1.6  | 4.7  | 0    |
| AutoAttack           | 9.4  | 0    | 4.7  | 0    |
| MORA                 | 12.5 | 0    | 4.7  | 0    |
| Square on the vote   | 84.4 | 70.3 | 81.2 | 62.5 |

Further variants:

* `mean_layers`, `batch_statistics`, `running_statistics`: the readings that the paper leaves open
  (robust_jax/methods/parl.py);
* `parameters5`, `parameters6`: the authors' later method, another objective
  (robust_jax/methods/parl_parameters.py), with the training of its public code;
* `figure1`: figure 1's three networks of like accuracy. The paper says that they are made by the
  method, two of them from different initialisations alone, and (section 4) that members whose pair
  the loss leaves out come to have similar boundaries: so members 1 and 2 (its prim and sim) are
  not penalised against each other, member 3 (its div) is against both;
* `finetune`: a short training from the authors' public plain ensemble,
  `--training.init-from DIR` (see recipes/ensembles.py).
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import PARL

from .eval.parl import curves
from .recipes import changes
from .recipes import ensembles as recipes

BASE = recipes.parl("cifar10", PARL(network=recipes.keras_ensemble()), curves(None, (0.07,)))

VARIANTS = {
    "default": BASE,
    "layers5": changes.with_method(BASE, num_layers=5),
    "layers3": changes.with_method(BASE, num_layers=3),
    "figure1": changes.with_method(BASE, pairs=((0, 2), (1, 2))),
    "mean_layers": changes.with_method(BASE, layer_reduction="mean"),
    "batch_statistics": changes.with_method(BASE, batch_statistics="batch"),
    "running_statistics": changes.with_method(BASE, batch_statistics="running"),
    "parameters5": recipes.parl_parameters("cifar10", 5, curves(None, (0.07,))),
    "parameters6": recipes.parl_parameters("cifar10", 6, curves(None, (0.07,))),
    "finetune": recipes.finetuned(PARL()),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "parl_cifar10", variant)
