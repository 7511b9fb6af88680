"""The rows of `methods.py`: each method beside its reference, with the ratios allowed."""

import dataclasses
from typing import NamedTuple

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.methods import (
    DVERGE,
    KAP,
    MART,
    PARL,
    TRADES,
    AdaptiveDiversityPromoting,
    GradDiv,
    GradientAlignment,
    KernelPool,
    MethodConfig,
    MonteCarloDropout,
    ParameterPARL,
    PriorityDropout,
    PriorityRates,
    RandomLayerSampling,
    RandomSelfEnsemble,
    REGroup,
    Standard,
    StochasticActivationPruning,
    TransferabilityReducedSmooth,
)
from robust_jax.models import EnsembleConfig, NetworkConfig, ResNetConfig, VGGConfig
from robust_jax.training import AdversarialTraining, FreeAdversarialTraining, TrainingConfig


class Row(NamedTuple):
    """A method beside its reference.

    Attributes:
        name: of the method.
        config: the method.
        reference: what it is compared with.
        step_bound: largest allowed ratio of the steps; None for none.
        predict_bound: largest allowed ratio of the predictions; None for none.
        reference_repeats: how often the reference runs for once the method (three separate
            networks for one ensemble of three).
        fits: measure, in the place of the training step, fitting on a batch beside the reference's
            prediction of it (REGroup, whose training step is the plain network's).
        training: of the method; the reference trains on clean images.
    """

    name: str
    config: MethodConfig
    reference: MethodConfig
    step_bound: float | None = None
    predict_bound: float | None = None
    reference_repeats: int = 1
    fits: bool = False
    training: TrainingConfig = TrainingConfig()


def rows(width: float) -> list[Row]:
    """Returns the table's rows.

    Args:
        width: multiplies the widths of ResNet-18.
    """
    single: NetworkConfig = ResNetConfig(depth=18, width_multiplier=width)
    resnet20 = ResNetConfig(depth=20)
    three = EnsembleConfig(resnet20, 3)
    deep = ResNetConfig(depth=50)
    plain, ensemble = Standard(network=single), Standard(network=three)
    pdd = PriorityDropout(network=three, rates=PriorityRates())
    return [
        Row("KAP(.1), ResNet-18", KAP(network=single, sigma=0.1), plain),
        Row("KMP(.1), ResNet-18", KAP(network=single, pool=KernelPool(kind="max")), plain),
        Row("NT(.1), ResNet-18", KAP(network=single, pool=None, sigma=0.1), plain),
        Row("MC dropout x 10, ResNet-18", MonteCarloDropout(network=single), plain),
        Row(
            "ensemble of 3 ResNet-20 / 3 separate",
            ensemble,
            Standard(network=resnet20),
            step_bound=1.0,
            reference_repeats=3,
        ),
        Row("LPD, 3 x ResNet-20", PriorityDropout(network=three), ensemble, step_bound=1.1),
        Row("PDD, 3 x ResNet-20", pdd, ensemble, step_bound=1.1),
        Row("PDD + DEG, 3 x ResNet-20", dataclasses.replace(pdd, deg_weight=0.01), ensemble),
        Row(
            "ADP, 3 x ResNet-20",
            AdaptiveDiversityPromoting(network=three),
            ensemble,
            step_bound=1.1,
        ),
        Row("GAL, 3 x ResNet-20", GradientAlignment(network=three), ensemble, step_bound=3.0),
        Row(
            "DEG, 3 x ResNet-20",
            GradientAlignment(network=three, coherence="sum", weight=0.01, input_sigma=0.0),
            ensemble,
            step_bound=3.0,
        ),
        *(
            Row(
                f"DVERGE layer {n} of 20, 3 x ResNet-20 ({dverge_passes(n):.1f} by its passes)",
                DVERGE(network=three, layer=n),
                ensemble,
            )
            for n in (1, 10, 20)
        ),
        Row(
            "TRS, 3 x ResNet-20",
            TransferabilityReducedSmooth(network=three),
            ensemble,
        ),
        Row("RSE n = 10, ResNet-18", RandomSelfEnsemble(network=single), plain),
        Row("GradDiv n = 4, ResNet-18", GradDiv(network=single), plain),
        *(
            Row(
                f"SAP {draws}, 10 passes, ResNet-18",
                StochasticActivationPruning(network=single, num_draws=10, draws=draws),
                plain,
            )
            for draws in ("with_replacement", "independent")
        ),
        *(
            Row(name, plain, plain, step_bound=bound, training=trained)
            for name, trained, bound in adversarial_trainings()
        ),
        Row("TRADES-10, ResNet-18", TRADES(network=single), plain, step_bound=10.0),
        Row("MART-10, ResNet-18", MART(network=single), plain, step_bound=10.0),
        Row("PARL H = 7, 3 x ResNet-20", PARL(network=three), ensemble, step_bound=2.7),
        Row("PARL parameters H = 5, 3 x ResNet-20", ParameterPARL(network=three), ensemble),
        Row(
            "RLS M = 2, K = 3, N = 10, ResNet-18",
            RandomLayerSampling(network=single),
            plain,
            step_bound=3.3,
        ),
        *(
            Row(
                f"REGroup k = 5 (step: fit), {name}",
                REGroup(network=network),
                Standard(network=network),
                step_bound=1.5,
                predict_bound=1.3,
                fits=True,
            )
            for name, network in (("VGG-19", VGGConfig(19, norm=False)), ("ResNet-50", deep))
        ),
    ]


def adversarial_trainings() -> list[tuple[str, TrainingConfig, float | None]]:
    """Returns adversarial trainings of a plain network: name, training, bound.

    A plain step runs forward once and backward twice (images of every layer, weights). A step of
    PGD needs no gradient of weights: two thirds of it. A step of Free-AT is one replay.
    """
    threat = ThreatModel("linf", eps=8 / 255)
    pgd = AdversarialTraining(PGD(threat, num_steps=10, step_size=2 / 255, keep="last"))
    fast = AdversarialTraining(PGD(threat, num_steps=1, step_size=10 / 255, keep="last"))
    return [
        ("PGD-10, ResNet-18", TrainingConfig(adversarial=pgd), 8.5),
        ("Fast-AT, ResNet-18", TrainingConfig(adversarial=fast), 1.9),
        (
            "Free-AT, ResNet-18",
            TrainingConfig(adversarial=FreeAdversarialTraining(threat)),
            None,
        ),
        ("AWP (2.0 by its passes), ResNet-18", TrainingConfig(weight_perturbation=0.01), None),
    ]


def dverge_passes(layer: int, *, num_members: int = 3, num_steps: int = 10) -> float:
    """Returns DVERGE's passes through a ResNet-20 as a ratio to the plain ensemble's.

    A plain member runs forward once and backward twice (images, weights). With DVERGE it trains so
    on every other member's images, runs forward once for its targets, and at each step of the
    distillation forward and backward to the images, up to the layer.
    """
    depth = (layer - 1) / 19  # its convolutions cost the same, but for the first
    return ((num_members - 1) * 3 + 1 + num_steps * 2 * depth) / 3
