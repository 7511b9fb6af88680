"""The attacks of the REGroup paper that exist here, and the adaptive ones it lacks.

Tiwari et al., "REGroup: Rank-aggregating ensemble of generative classifiers for robust
predictions", arXiv 2006.10679, 2020.

    python evaluate.py --checkpoint runs/regroup_cifar10 --config configs/eval/regroup.py
    python evaluate.py --checkpoint runs/regroup_cifar10 --config configs/eval/regroup.py:softmax
    python evaluate.py --checkpoint runs/regroup_cifar10 --config configs/eval/regroup.py:adaptive

* default: the paper's protocol, PGD on the softmax network (table 7: eps 4/255, steps of .01, 40
  steps; figure 2: other eps), which is oblivious to REGroup, judged by REGroup;
* softmax: the same adversarial images, judged by the softmax network;
* adaptive: PGD with the margin loss on REGroup itself, through the Borda count with the soft
  count's gradient, the soft count, and the KL margin.

Deviation: the paper reports the images only that fooled the softmax network; here every image is
attacked and counts.
"""

import dataclasses

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.protocol import AttackRun, Evaluation

RADII = {"0.5of255": 0.5 / 255, "1of255": 1 / 255, "2of255": 2 / 255, "8of255": 8 / 255}
VIEWS = ("deployed", "soft_borda", "kl_margin")

TRANSFER = Evaluation(
    attacks={
        "pgd40_4of255": AttackRun(
            PGD(ThreatModel("linf", eps=4 / 255), num_steps=40, step_size=0.01), view="surrogate"
        ),
        **{
            f"pgd40_{name}": AttackRun(
                PGD(ThreatModel("linf", eps=eps), num_steps=40), view="surrogate"
            )
            for name, eps in RADII.items()
        },
    },
    skip_misclassified=False,
)

VARIANTS = {
    "default": TRANSFER,
    "softmax": dataclasses.replace(TRANSFER, judged_view="surrogate"),
    "adaptive": Evaluation(
        attacks={
            f"pgd40_{name}_{view}": AttackRun(
                PGD(ThreatModel("linf", eps=eps), num_steps=40, loss="margin"), view=view
            )
            for name, eps in RADII.items()
            for view in VIEWS
        }
    ),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns an evaluation."""
    return VARIANTS[variant]
