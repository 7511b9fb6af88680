"""The standard AutoAttack in the balls of RobustBench's tables.

    python evaluate.py --checkpoint runs/wong2020 --config configs/eval/robustbench.py

Croce et al., "RobustBench: a standardized adversarial robustness benchmark", NeurIPS 2021.

* default: CIFAR-10 in Linf, eps = 8/255, on all test images;
* l2: CIFAR-10 in L2, eps = .5;
* imagenet: ImageNet in Linf, eps = 4/255, on the first 5,000 validation images of the prepared
  dataset, which are not the 5,000 of RobustBench's own list.

docs/checkpoints.md says which public checkpoints there are, and what is published of them.
"""

from robust_jax.attacks import AutoAttack, ThreatModel
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection


def autoattack(threat: ThreatModel, num_examples: int | None = None) -> Evaluation:
    """Returns the evaluation in one ball."""
    return Evaluation(
        {"autoattack": AttackRun(AutoAttack(threat))},
        selection=Selection(num_examples=num_examples),
    )


VARIANTS = {
    "default": autoattack(ThreatModel("linf", eps=8 / 255)),
    "l2": autoattack(ThreatModel("l2", eps=0.5)),
    "imagenet": autoattack(ThreatModel("linf", eps=4 / 255), num_examples=5000),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns the evaluation of a table."""
    return VARIANTS[variant]
