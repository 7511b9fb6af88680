"""Attacks: functions of plain JAX with one signature, `attack(view, images, labels, key=key)`.

| attack | file | norms | sees | reference |
|---|---|---|---|---|
| `FGSM` | `pgd.py` | Linf, L2, L1 | gradients | Goodfellow et al., 2015 |
| `BIM` | `pgd.py` | Linf, L2, L1 | gradients | Kurakin et al., 2017 |
| `PGD` | `pgd.py` | Linf, L2, L1 | gradients | Madry et al., 2018 |
| `MIM` | `transfer.py` | Linf, L2 | gradients (of a source) | Dong et al., 2018, and five more |
| `MDI2FGSM` | `transfer.py` | Linf, L2 | gradients (of a source) | Xie et al., 2019 |
| `APGD`, `APGDT` | `apgd.py` | Linf, L2, L1 | gradients | Croce and Hein, 2020 |
| `FAB`, `FABT` | `fab.py` | Linf, L2, L1 | gradients | Croce and Hein, 2020 |
| `Square` | `square.py` | Linf, L2, L1 | scores | Andriushchenko et al., 2020 |
| `AutoAttack` | `autoattack.py` | Linf, L2, L1 | gradients and scores | Croce and Hein, 2020 |
| `FrugalAttack` | `frugal.py` | Linf, L2 | gradients | Melamed et al., 2024 |
| `Suite` | `suite.py` | those of its attacks | as its attacks | |
| `SPSA` | `scores.py` | Linf, L2 | scores | Uesato et al., 2018 |
| `NES` | `scores.py` | Linf, L2 | scores | Ilyas et al., 2018 |
| `MORA` | `ensembles.py` | Linf, L2 | gradients of members | Yu et al., 2022 |
| `ARC` | `arc.py` | Linf, L2 | gradients of members | Dbouk and Shanbhag, 2022 |
| `Averaged` | `wrapped.py` | as the inner attack | a random model's draws | Athalye et al., 2018 |
| `Rescaled` | `wrapped.py` | as the inner attack | saturated logits | |
| `DeepFool` | `deepfool.py` | least Linf or L2 | gradients | Moosavi-Dezfooli et al., 2016 |
| `TrustRegion` | `deepfool.py` | least Linf or L2 | gradients | Yao et al., 2019 |
| `CarliniWagner` | `carlini_wagner.py` | least L2 | gradients | Carlini and Wagner, 2017 |
| `EAD` | `carlini_wagner.py` | least L1 + L2 | gradients | Chen et al., 2018 |
| `SmallestEps` | `smallest_eps.py` | least Linf or L2 | gradients | Rauber et al., 2017 |
| `Boundary` | `decision.py` | least L2 | decisions | Brendel et al., 2018 |
| `HopSkipJump` | `hop_skip_jump.py` | least Linf or L2 | decisions | Chen et al., 2020 |
| `JSMA` | `sparse.py` | few values | gradients | Papernot et al., 2016 |
| `FMN` | `fmn.py` | least Linf, L2, L1 or values | gradients | Pintor et al., 2021 |
| `DDN` | `fmn.py` | least L2 | gradients | Rony et al., 2019 |
| `SigmaZero` | `sigma_zero.py` | least values | gradients | Cinà et al., 2025 |
| `SparseRS` | `sparse_rs.py` | L0 (pixels or values) | scores | Croce et al., 2022 |
| `Spatial` | `spatial.py` | rotations, shifts | scores | Engstrom et al., 2019 |

A class is an attack's hyper-parameters and its one function: `run` of those inside a ball
(`bounded.py`, which carries out the plan of restarts and targets), `perturb` of the others
(`base.py`; `minimum_norm.py` for those that make a distance small, `.within(eps)` for a ball).
From a call to the algorithm: `Attack.__call__`, `BoundedAttack.perturb`, `run`.

What they share: the ball (`threat.py`; `sparsity.py` for few values), losses (`losses.py`), views
made of views (`views.py`, `surrogates.py`, `score_gradients.py`), which of several ends is kept
(`runs.py`), suites (`suites.py`; `standing.py` for one attack on the examples that still stand),
linearised boundaries (`linearised.py`), members computed alone (`members.py`), an attack's way
(`trajectories.py`), what it costs in passes (`passes.py`), as many images as there are
(`dataset.py`), several radii (`radii.py`; `leaves.py` for why they are one program), what is
refused (`checks.py`).
"""

from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.arc import ARC
from robust_jax.attacks.autoattack import AutoAttack
from robust_jax.attacks.base import Attack
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.carlini_wagner import EAD, CarliniWagner
from robust_jax.attacks.checks import check_images, check_logits
from robust_jax.attacks.dataset import over_dataset
from robust_jax.attacks.decision import Boundary
from robust_jax.attacks.deepfool import DeepFool, TrustRegion
from robust_jax.attacks.ensembles import MORA
from robust_jax.attacks.fab import FAB, FABT
from robust_jax.attacks.fmn import DDN, FMN
from robust_jax.attacks.frugal import FrugalAttack
from robust_jax.attacks.hop_skip_jump import HopSkipJump
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.passes import Passes
from robust_jax.attacks.pgd import BIM, FGSM, PGD
from robust_jax.attacks.radii import Radii, over_radii
from robust_jax.attacks.score_gradients import nes
from robust_jax.attacks.scores import NES, SPSA
from robust_jax.attacks.sigma_zero import SigmaZero
from robust_jax.attacks.smallest_eps import SmallestEps
from robust_jax.attacks.sparse import JSMA
from robust_jax.attacks.sparse_rs import SparseRS
from robust_jax.attacks.spatial import Spatial
from robust_jax.attacks.square import Square
from robust_jax.attacks.suite import Suite
from robust_jax.attacks.surrogates import straight_through, with_gradient_of
from robust_jax.attacks.threat import ThreatModel
from robust_jax.attacks.trajectories import Trajectory, trajectory
from robust_jax.attacks.transfer import MDI2FGSM, MIM
from robust_jax.attacks.views import (
    View,
    as_view,
    bind,
    ensemble,
    eot,
    frozen,
    in_float64,
)
from robust_jax.attacks.wrapped import Averaged, Rescaled, standing_with_twice_the_draws

__all__ = [
    "APGD",
    "APGDT",
    "ARC",
    "BIM",
    "DDN",
    "EAD",
    "FAB",
    "FABT",
    "FGSM",
    "FMN",
    "JSMA",
    "MDI2FGSM",
    "MIM",
    "MORA",
    "NES",
    "PGD",
    "SPSA",
    "Attack",
    "AutoAttack",
    "Averaged",
    "Boundary",
    "BoundedAttack",
    "CarliniWagner",
    "DeepFool",
    "FrugalAttack",
    "HopSkipJump",
    "MinimumNormAttack",
    "Passes",
    "Radii",
    "Rescaled",
    "SigmaZero",
    "SmallestEps",
    "SparseRS",
    "Spatial",
    "Square",
    "Suite",
    "ThreatModel",
    "Trajectory",
    "TrustRegion",
    "View",
    "as_view",
    "bind",
    "check_images",
    "check_logits",
    "ensemble",
    "eot",
    "frozen",
    "in_float64",
    "nes",
    "over_dataset",
    "over_radii",
    "standing_with_twice_the_draws",
    "straight_through",
    "trajectory",
    "with_gradient_of",
]
