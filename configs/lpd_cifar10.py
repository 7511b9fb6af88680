"""LPD and PDD on CIFAR-10: three ResNet-18 whose pooled features are dropped by priority.

    python train.py configs/lpd_cifar10.py             # LPD
    python train.py configs/lpd_cifar10.py:pdd         # PDD with DEG, "PDD" in the paper's tables
    python evaluate.py --checkpoint runs/lpd_cifar10 --config configs/eval/lpd.py:table4_cifar10

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023. Table 4 (%; robust accuracy counts only images that were right without attack):

| attack        | baseline (ensemble_cifar10.py) | PDD (pdd) | LPD (default) |
|---------------|--------------------------------|-----------|---------------|
| none          | 95.48                          | 95.58     | 95.83         |
| FGSM .02, .04 | 47.07, 34.32                   | 58.42, 41.75 | 73.26, 65.55 |
| BIM .02, .04  | 6.01, 1.00                     | 30.12, 12.43 | 42.69, 21.95 |
| PGD .02, .04  | 7.49, 0.37                     | 33.92, 13.38 | 45.90, 27.50 |
| JSMA .05, .1  | 27.20, 7.73                    | 48.78, 18.67 | 68.69, 49.50 |
| C&W .1        | 0.14                           | 61.60     | 68.60         |

ADP, the fourth column of the table, is `adp_cifar10.py:lpd`. Tables 2 and 3, quartiles:

| row   | L_d                           | L_s                       |
|-------|-------------------------------|---------------------------|
| plain | .376, .606, .924              | .0386, .0703, .398        |
| ADP   | -.148, .0273, .277            | .445, .649, 2.21          |
| PDD   | -4.11e-8, -9.93e-12, 6.23e-9  | 8.02e-7, 7.40e-6, 5.08e-5 |
| LPD   | 1.25e-14, 1.04e-11, 2.49e-8   | 3.57e-9, 3.50e-8, 6.78e-7 |

Seconds an epoch (section 5.4, one V100, batch size 64): baseline 54, ADP 64, LPD 80, DEG 703
(`deg`), TRS 4,106 (`trs_cifar10.py:lpd`).

Ours: the full trainings are not yet run. Short ones from a public plain ensemble of three ResNet-20
(clean 93.6 %, FGSM .01 42.6 % on the first 1,000 test images; variants below), 300 steps of 32:

| variant      | clean | FGSM .01 | keep rate, step 10 to 300    | cross-entropy |
|--------------|-------|----------|------------------------------|---------------|
| finetune     | 92.2  | 45.9     | .505 +- .319 to .481 +- .342 | 2.02 to 1.53  |
| finetune_pdd | 92.7  | 46.1     | .282 +- .361 to .288 +- .370 | 1.91 to 1.58  |

One FGSM step says nothing of robustness: these logits are larger at prediction than in training.
`finetune` through `eval/lpd.py:honest` at the reduced budget, 64 images of which 93.8 % are right
(intervals of 12 points; no check flagged), %; MORA was then APGD on the members' logits, each
divided by its own gap:

| eps  | the paper's PGD-10 | AutoAttack | PGD-100, rescaled | MORA |
|------|--------------------|------------|-------------------|------|
| .005 | 57.8               | 17.2       | 37.5              | 15.6 |
| .02  | 4.7                | 0          | 0                 | 0    |
| .04  | 0                  | 0          | 0                 | 0    |

Figure 2 on two short trainings (`width4` here and of ensemble_cifar10.py, 6 epochs; validation 37.3
and 66.4 %): smallest margins of the mean logit by CROWN, eps .0005, images that both have right:

| model | images | certified % | quantiles at 0, 10, 25, 50, 75, 90, 100 %        |
|-------|--------|-------------|--------------------------------------------------|
| LPD   | 200    | 51.0        | -61.4, -16.6, -3.84, .0856, 1.09, 1.60, 3.18     |
| LPD   | 40     | 45.0        | -44.8, -18.4, -6.82, -.207, 1.25, 1.73, 3.18     |
| plain | 40     | 15.0        | -119.9, -74.2, -23.7, -7.55, -.975, 1.22, 3.91   |

A network that is right this seldom is smooth: no word yet on the method. Intervals certify none.

The paper does not say whether kept features are rescaled, nor gamma. Without rescaling (default, as
PDD's code has it) logits are larger at prediction than in training, softmax saturates and gradients
of the cross-entropy vanish: the small gradients of tables 2 and 3 follow from that alone.
`inverted` rescales; `gamma1`, `gamma10`, `gamma1000` sweep what is 100 by default.

Further variants: `pdd_alone` (PDD without DEG), `deg` (DEG without dropout), `batch_statistics`,
`width4` and `pdd_width4` (the networks of figure 2, base width 4), `resnet34` and `pdd_resnet34`
(surrogates of the black-box attack of type II), `finetune`, `finetune_pdd` and `finetune_pdd_deg`:
short trainings from a public plain ensemble of three ResNet-20, `--training.init-from DIR` (see
recipes/ensembles.py).
"""

import dataclasses

from robust_jax.experiment.config import Config
from robust_jax.methods import GradientAlignment, LaplaceRates, PriorityDropout, PriorityRates

from .eval.lpd import table4
from .recipes import changes
from .recipes import ensembles as recipes

LPD = PriorityDropout(network=recipes.resnet18_ensemble())
PDD = PriorityDropout(network=LPD.network, rates=PriorityRates(), deg_weight=0.01)
BASE = recipes.lpd("cifar10", LPD, table4((0.02, 0.04), (0.02, 0.04)))
BASE_PDD = changes.with_method(BASE, rates=PDD.rates, deg_weight=PDD.deg_weight)

NARROW, DEEP = (
    recipes.resnet18_ensemble(width_multiplier=1 / 16),
    recipes.resnet18_ensemble(depth=34),
)

VARIANTS = {
    "default": BASE,
    "pdd": BASE_PDD,
    "pdd_alone": changes.with_method(BASE_PDD, deg_weight=0.0),
    "deg": dataclasses.replace(
        BASE,
        method=GradientAlignment(
            network=LPD.network, coherence="sum", weight=0.01, input_sigma=0.0
        ),
    ),
    "inverted": changes.with_method(BASE, rescale="inverted"),
    "gamma1": changes.with_method(BASE, rates=LaplaceRates(gamma=1.0)),
    "gamma10": changes.with_method(BASE, rates=LaplaceRates(gamma=10.0)),
    "gamma1000": changes.with_method(BASE, rates=LaplaceRates(gamma=1000.0)),
    "batch_statistics": changes.with_method(BASE, rates=LaplaceRates(statistics="batch")),
    "width4": changes.with_method(BASE, network=NARROW),
    "pdd_width4": changes.with_method(BASE_PDD, network=NARROW),
    "resnet34": changes.with_method(BASE, network=DEEP),
    "pdd_resnet34": changes.with_method(BASE_PDD, network=DEEP),
    "finetune": recipes.finetuned(LPD),
    "finetune_pdd": recipes.finetuned(PriorityDropout(rates=PDD.rates)),
    "finetune_pdd_deg": recipes.finetuned(PDD),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "lpd_cifar10", variant)
