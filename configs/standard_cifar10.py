"""The plain ResNet-18 on CIFAR-10: the KAP paper's baselines RN18-NT and RN18-AT-ES.

    python train.py configs/standard_cifar10.py        # NT
    python train.py configs/standard_cifar10.py:at     # AT-ES
    python evaluate.py --checkpoint runs/standard_cifar10 --config configs/eval/kap.py:table1

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022, tables 1 and A1 (%):

| row           | variant | clean | PGD-20 | AutoAttack | Square |
|---------------|---------|-------|--------|------------|--------|
| RN18-NT       | default | 94.66 | 0.0    | 0.0        | 0.87   |
| RN18-AT-ES    | at      | 84.20 | 43.70  | 43.00      | 49.10  |
| WRN-16-4 (BE) | `batch_ensemble_cifar10.py` | 95.60 | 7.90   | 7.80       | 21.00  |

Table A1 repeats them, these networks having no noise, with AutoAttack rand 0.0 (NT) and 43.38 (AT).

Ours: not yet run by these recipes. One epoch (382 steps of 128, rate up to .1 and back to 0) of a
ResNet-18 of a quarter of the width, plain and by Fast-AT (one step of 10/255 in the ball of 8/255,
from a random start), the first 256 test images, eps 8/255 (%, intervals of 6 points either side):

| training | clean | PGD-20 | APGD-CE | Square, 200 queries | worst case |
|----------|-------|--------|---------|---------------------|------------|
| plain    | 58.98 | 0.00   | 0.00    | 28.13               | 0.00       |
| Fast-AT  | 36.33 | 25.39  | 25.39   | 26.17               | 23.83      |

No sanity check of the second raises a flag.

RN18-NT (sigma = .1) is `kap_cifar10.py:nt_sigma0.1`. The paper's AT-ES resembles the last, overfit
checkpoint of Rice et al.'s public log (84.9 / 45.6 under PGD-10), not their best (82.9 / 53.5).

Further variants: `at_rice`, Rice et al.'s own recipe (PreAct-ResNet-18, PGD-10, normalised inside),
and `depth1`, `depth2`, `depth3`, the plain networks of figure A2a (a curve without numbers).
Adversarial training by others' own recipes (recipes/adversarial.py): `fast_at` (Wong et al., FGSM
from a random start), `free_at` (Shafahi et al., replayed batches), `trades` (Zhang et al.), `mart`
(Wang et al.) and `awp` (Wu et al., `at_rice` with perturbed weights).
`gaussian0.12`, `gaussian0.25`, `gaussian0.5` and `gaussian1.0` train on images with Gaussian noise,
the base classifiers of randomized smoothing (Cohen, Rosenfeld and Kolter, "Certified Adversarial
Robustness via Randomized Smoothing", ICML 2019; recipe in recipes/baselines.py).
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import Standard
from robust_jax.models import PreActResNetConfig, strided_cnn

from .eval.kap import noise_off, pgd
from .recipes import adversarial, baselines, changes
from .recipes import kap as recipes

NT = recipes.cifar("cifar10", noise_off("cifar"))

RICE = changes.with_method(
    NT, network=PreActResNetConfig(), normalization=adversarial.NORMALIZATION
)

GAUSSIAN = baselines.cifar10(
    Standard(network=NT.method.network, normalization=baselines.NORMALIZATION),
    baselines.GAUSSIAN_OPTIMIZER,
    noise_off("cifar"),
    num_epochs=90.0,
    batch_size=256,
)

AT_RICE = recipes.with_rice_optimizer(
    recipes.adversarially_trained(RICE, pgd("cifar", 10), pgd("cifar", 10))
)

VARIANTS = {
    "default": NT,
    "at": recipes.with_rice_optimizer(
        recipes.adversarially_trained(NT, pgd("cifar", 20), pgd("cifar", 10))
    ),
    "at_rice": AT_RICE,
    "awp": changes.with_training(AT_RICE, weight_perturbation=0.01),
    "fast_at": adversarial.fast(noise_off("cifar")),
    "free_at": adversarial.free(noise_off("cifar")),
    "trades": adversarial.trades(noise_off("cifar")),
    "mart": adversarial.mart(noise_off("cifar")),
    "depth1": recipes.with_network(NT, strided_cnn(1)),
    "depth2": recipes.with_network(NT, strided_cnn(2)),
    "depth3": recipes.with_network(NT, strided_cnn(3)),
    "gaussian0.12": changes.with_method(GAUSSIAN, input_sigma=0.12),
    "gaussian0.25": changes.with_method(GAUSSIAN, input_sigma=0.25),
    "gaussian0.5": changes.with_method(GAUSSIAN, input_sigma=0.5),
    "gaussian1.0": changes.with_method(GAUSSIAN, input_sigma=1.0),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "standard_cifar10", variant)
