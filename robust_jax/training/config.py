"""How a network is trained: phases, adversarial examples in the step, the best checkpoint."""

import dataclasses
from typing import Literal

from robust_jax import checks
from robust_jax.attacks import APGD, BIM, FGSM, MIM, PGD, Attack, Spatial, ThreatModel
from robust_jax.runtime.compilation import Precision


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one batch size and one image size.

    Attributes:
        epochs: passes over the training split; may be a fraction.
        batch_size: global batch size, over all devices and hosts.
        image_size: side that training images are resized to; None for the dataset's own.

    Raises:
        ValueError: no epoch, no batch, or no pixel.

    Example:
        >>> from robust_jax.training import Phase, TrainingConfig
        >>> small = Phase(epochs=6.0, batch_size=512, image_size=128)
        >>> large = Phase(epochs=6.0, batch_size=224, image_size=224)
        >>> sum(phase.epochs for phase in TrainingConfig(phases=(small, large)).phases)
        12.0
    """

    epochs: float
    batch_size: int = 128
    image_size: int | None = None

    def __post_init__(self) -> None:
        checks.above(self, 0, "epochs")
        checks.at_least(self, 1, "batch_size", "image_size")


AttackChoice = PGD | FGSM | BIM | MIM | APGD | Spatial | Attack
"""Every attack is one; a command line can choose those named (`training.validation-attack:pgd`)."""


@dataclasses.dataclass(frozen=True)
class AdversarialTraining:
    """Training on adversarial examples made inside the step (Madry et al., 2018).

    Attributes:
        attack: makes the examples. The default is Madry et al.'s for CIFAR-10 with the ten steps
            that became common: Linf, eps 8/255, steps of 2/255, the last one's images.
        view: the method's view that it attacks. "train" normalises by the batch's statistics
            (the network as it is being trained, as Rice et al., 2020), "deployed" by the running
            ones; neither attack moves them. The loss that follows uses and moves the statistics
            of the adversarial batch.

    Raises:
        ValueError: an attack that runs on the host, or is targeted.

    References:
        Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR
        2018.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
        >>> attack = PGD(ThreatModel("linf", 8 / 255), num_steps=7, step_size=2 / 255, keep="last")
        >>> madry = AdversarialTraining(attack, view="deployed")
        >>> TrainingConfig((Phase(epochs=200.0),), adversarial=madry).adversarial.attack.num_steps
        7
    """

    attack: AttackChoice = PGD(
        ThreatModel("linf", eps=8 / 255), num_steps=10, step_size=2 / 255, keep="last"
    )
    view: str = "train"

    def __post_init__(self) -> None:
        self.attack.check_in_training()


@dataclasses.dataclass(frozen=True)
class FreeAdversarialTraining:
    """Training on replayed batches, at the price of clean training (Shafahi et al., 2019).

    Each batch is trained on `num_replays` times in a row, with the same augmentation. One backward
    pass gives the gradient of the weights, for a step of the optimizer, and that of the images,
    along which the perturbation of the next replay moves. The perturbation is carried over batches
    too, and starts at zero where a phase has other sizes.

    A step of the run is a replay, so that epochs of `phases` and schedules count steps as ever,
    and the run sees each image 1 / num_replays as often.

    Attributes:
        threat: ball of the perturbation.
        num_replays: replays of a batch, m in the paper.
        step_size: length of the perturbation's step; None is eps.

    Raises:
        ValueError: less than one replay, a step size that is not above 0, or a norm without steps.

    References:
        Shafahi et al., "Adversarial training for free!", NeurIPS 2019.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> from robust_jax.training import FreeAdversarialTraining, Phase, TrainingConfig
        >>> free = FreeAdversarialTraining(ThreatModel("linf", eps=8 / 255), num_replays=8)
        >>> TrainingConfig((Phase(epochs=200.0),), adversarial=free).num_replays  # 25 passes
        8
    """

    threat: ThreatModel
    num_replays: int = 8
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.num_replays < 1:
            raise ValueError(f"Expected num_replays={self.num_replays} >= 1.")
        if self.threat.norm not in PGD.norms:
            raise ValueError(
                f"Expected norm={self.threat.norm!r} to be one of {sorted(PGD.norms)}: the "
                "perturbation moves by steps."
            )
        if self.step_size is not None and self.step_size <= 0:
            raise ValueError(f"Expected step_size={self.step_size} > 0.")


@dataclasses.dataclass(frozen=True)
class OverfittingMonitor:
    """Looks out for catastrophic overfitting: accuracy under PGD that falls all at once.

    Training on one step of FGSM can end so (Wong, Rice and Kolter, 2020, who stop where accuracy
    falls by .2 from one epoch to the next). Here it is compared with the best checkpoint's.

    Attributes:
        drop: how far robust validation accuracy may lie below the best so far.
        action: "warn" says so and goes on; "stop" ends the training, also of a run that is started
            again. The best checkpoint is deployed either way.

    Raises:
        ValueError: a drop outside (0, 1).

    References:
        Wong, Rice and Kolter, "Fast is better than free", ICLR 2020.

    Example:
        >>> from robust_jax.attacks import FGSM, PGD, ThreatModel
        >>> from robust_jax.training import AdversarialTraining, OverfittingMonitor, TrainingConfig
        >>> ball = ThreatModel("linf", eps=8 / 255)
        >>> config = TrainingConfig(
        ...     adversarial=AdversarialTraining(FGSM(ball)),
        ...     best_by="robust_accuracy",
        ...     validation_attack=PGD(ball, num_steps=10),
        ...     overfitting=OverfittingMonitor(drop=0.2, action="stop"),
        ... )
        >>> TrainingConfig(overfitting=OverfittingMonitor())
        Traceback (most recent call last):
            ...
        ValueError: Expected best_by='accuracy' to be 'robust_accuracy', for overfitting.
    """

    drop: float = 0.2
    action: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        if not 0 < self.drop < 1:
            raise ValueError(f"Expected 0 < drop={self.drop} < 1.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long a run trains, on what, and which of its checkpoints is the best.

    Attributes:
        phases: run one after another. Without any, nothing is trained: the network of `init_from`
            is only fitted, by a method that has something to fit (REGroup).
        adversarial: adversarial examples in the step; None for clean training.
        weight_perturbation: gamma of adversarial weight perturbation (Wu, Xia and Wang, 2020): the
            step takes the gradient where each kernel is moved up the loss by gamma times its own
            norm, and applies it to the kernels as they are. 0 for none; one more pass where not.
            Terms that attack by themselves (TRADES, MART) do so again at the moved kernels; the
            paper's code keeps the images of the first attack. Kernels that the optimizer leaves
            frozen are moved for the gradient too.
        init_from: work directory whose best checkpoint's variables the run starts from; several
            for one network each, which become the members of an ensemble, or the M choices of every
            layer of `RandomLayerSampling`, in this order.
        init_part: "all" of it, or the "backbone" alone, for other classes: the last linear layer is
            fresh, and images are normalised as this run says; a line says what was not taken.
        ema_decay: decay of the exponential moving average of the variables, which is then what
            is validated and deployed; None for none.
        max_steps: end of the run, should it come before the phases' (schedules keep their length).
        validate_every: epochs between two validations; a checkpoint is saved at each.
        best_by: validation metric of the best checkpoint: "accuracy", or "robust_accuracy" under
            `validation_attack`.
        validation_attack: attack on the validation split (view "deployed").
        validation_examples: how many validation examples it attacks; None for all.
        overfitting: what to do where robust validation accuracy falls; None for nothing.
        precision: of products of float32 in the step, in validation and in the fit, in JAX's
            names. "default" is the device's quickest; "highest" is float32 everywhere.

    Raises:
        ValueError: its parts do not go together, such as `best_by` robust accuracy without a
            `validation_attack`.

    References:
        Rice, Wong and Kolter, "Overfitting in adversarially robust deep learning", ICML 2020
        (`best_by`); Wu, Xia and Wang, NeurIPS 2020 (`weight_perturbation`).

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.training import AdversarialTraining, Phase, TrainingConfig
        >>> rice = TrainingConfig(
        ...     (Phase(epochs=200.0, batch_size=128),),
        ...     adversarial=AdversarialTraining(),
        ...     best_by="robust_accuracy",  # early stopping: the best checkpoint is deployed
        ...     validation_attack=PGD(ThreatModel("linf", eps=8 / 255), num_steps=10),
        ... )
        >>> TrainingConfig(phases=())
        Traceback (most recent call last):
            ...
        ValueError: Expected init_from=None to name a checkpoint: phases=() train nothing.
    """

    phases: tuple[Phase, ...] = (Phase(epochs=1.0),)
    adversarial: AdversarialTraining | FreeAdversarialTraining | None = None
    weight_perturbation: float = 0.0
    init_from: str | tuple[str, ...] | None = None
    init_part: Literal["all", "backbone"] = "all"
    ema_decay: float | None = None
    max_steps: int | None = None
    validate_every: float = 1.0
    best_by: Literal["accuracy", "robust_accuracy"] = "accuracy"
    validation_attack: AttackChoice | None = None
    validation_examples: int | None = None
    overfitting: OverfittingMonitor | None = None
    precision: Precision = "default"

    def __post_init__(self) -> None:
        if not self.phases and self.init_from is None:
            raise ValueError(
                "Expected init_from=None to name a checkpoint: phases=() train nothing."
            )
        if self.init_from == ():
            raise ValueError("Expected init_from=() to name checkpoints.")
        if self.init_part == "backbone" and (not self.phases or self.init_from is None):
            raise ValueError(
                "Expected init_part='backbone' with init_from, and phases that train a head."
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"Expected 0 < ema_decay={self.ema_decay} < 1.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"Expected max_steps={self.max_steps} >= 1.")
        if self.validate_every <= 0:
            raise ValueError(f"Expected validate_every={self.validate_every} > 0.")
        if self.best_by == "robust_accuracy" and self.validation_attack is None:
            raise ValueError("Expected validation_attack=None to be an attack, for best_by.")
        if self.overfitting is not None and self.best_by != "robust_accuracy":
            raise ValueError(
                f"Expected best_by={self.best_by!r} to be 'robust_accuracy', for overfitting."
            )
        if self.weight_perturbation < 0:
            raise ValueError(f"Expected weight_perturbation={self.weight_perturbation} >= 0.")

    @property
    def num_replays(self) -> int:
        """Returns how many steps in a row have the same batch."""
        found = self.adversarial
        return found.num_replays if isinstance(found, FreeAdversarialTraining) else 1
