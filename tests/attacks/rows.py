"""The attacks that the contract is asked of: a new attack adds its row."""

from functools import partial

from robust_jax.attacks import (
    APGD,
    APGDT,
    ARC,
    BIM,
    DDN,
    EAD,
    FAB,
    FABT,
    FGSM,
    FMN,
    JSMA,
    MDI2FGSM,
    MIM,
    MORA,
    NES,
    PGD,
    SPSA,
    Averaged,
    Boundary,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    Rescaled,
    SigmaZero,
    SmallestEps,
    SparseRS,
    Spatial,
    Square,
    ThreatModel,
    TrustRegion,
)

EPS = {"linf": 0.2, "l2": 1.2, "l1": 4.0, "l0": 6.0}
BOUNDED = {
    "fgsm": FGSM,
    "bim": partial(BIM, num_steps=5),
    "mim": partial(MIM, num_steps=5, decay=0.5),
    "pgd": partial(PGD, num_steps=5),
    "pgd_margin_restarts": partial(PGD, num_steps=3, num_restarts=2, loss="margin"),
    "pgd_parallel_restarts_last": partial(
        PGD, num_steps=3, num_restarts=2, parallel=True, keep="last"
    ),
    "apgd": partial(APGD, num_steps=8),
    "apgd_dlr": partial(APGD, num_steps=8, loss="dlr", num_restarts=2),
    "apgd_t": partial(APGDT, num_steps=8, num_targets=2),
    "arc": partial(ARC, num_steps=3, num_candidates=4),
    "mora": partial(MORA, num_steps=8, mixtures=(0.5,), num_targets=1),
    "fab": partial(FAB, num_steps=5, num_restarts=2),
    "fab_t": partial(FABT, num_steps=5, num_targets=2),
    "carlini_wagner": lambda threat: CarliniWagner(
        num_searches=3, num_steps=30, initial_constant=0.1, learning_rate=0.05
    ).within(threat.eps, norm=threat.norm),
    "ead": lambda threat: EAD(
        num_searches=3, num_steps=30, initial_constant=0.1, learning_rate=0.05, beta=0.01
    ).within(threat.eps, norm=threat.norm),
    "fmn": lambda threat: FMN(distance_norm=threat.norm, num_steps=30).within(threat.eps),
    "ddn": lambda threat: DDN(num_steps=30).within(threat.eps, norm=threat.norm),
    "deepfool": lambda threat: DeepFool(distance_norm=threat.norm).within(threat.eps),
    "trust_region": lambda threat: TrustRegion(
        distance_norm=threat.norm, radius=threat.eps / 20 or 0.01
    ).within(threat.eps),
    "boundary": lambda threat: Boundary(num_steps=600, sphere_step=0.1, source_step=0.1).within(
        threat.eps, norm=threat.norm
    ),
    "hop_skip_jump": lambda threat: HopSkipJump(
        distance_norm=threat.norm, num_steps=8, num_first_queries=50
    ).within(threat.eps),
    "spsa": partial(SPSA, num_steps=8, num_samples=8, learning_rate=0.1),
    "nes": partial(NES, num_steps=8, num_samples=8, sigma=0.01),
    "averaged": lambda threat: Averaged(threat, PGD(threat, num_steps=5), num_samples=2),
    "rescaled": lambda threat: Rescaled(threat, PGD(threat, num_steps=5)),
    "mim_ni_si_ti_vmi": partial(
        MIM, num_steps=4, nesterov=True, num_scales=2, kernel_size=3, num_neighbours=2
    ),
    "mdi2fgsm": partial(MDI2FGSM, num_steps=5, smallest=0.7, probability=0.7),
    "smallest_eps": lambda threat: SmallestEps(
        distance_norm=threat.norm, initial_eps=0.1, num_searches=8, num_steps=8, relative_step=0.2
    ).within(threat.eps),
    "square": partial(Square, num_queries=60, rescale_schedule=True),
    "sparse_rs": partial(SparseRS, num_queries=100),
}
# Rows in another ball than Linf and L2, and those that L1 is asked of besides.
HOME = {"sparse_rs": "l0"}
IN_L1 = ("pgd", "apgd", "fab", "fmn", "square")
UNBOUNDED = {
    "fmn_l0": FMN(distance_norm="l0_values", num_steps=30),
    "jsma": JSMA(gamma=0.3),
    "sigma_zero": SigmaZero(num_steps=40),
    "spatial": Spatial(max_angle=20.0, max_shift=2, num_angles=3, num_shifts=3),
}
# These do not climb a loss to the corner of a linear model's ball, or need more classes than two.
NOT_STEEPEST = (
    "apgd_dlr",
    "apgd_t",
    "arc",
    "boundary",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "ead",
    "fab",
    "fab_t",
    "fmn",
    "hop_skip_jump",
    "mdi2fgsm",
    "mim_ni_si_ti_vmi",
    "mora",
    "nes",
    "rescaled",
    "smallest_eps",
    "sparse_rs",
    "spsa",
    "square",
    "trust_region",
)
# Each shares its code with another: what compiles a program of its own is nightly for them.
VARIANTS = (
    "bim",
    "mim",
    "pgd_margin_restarts",
    "pgd_parallel_restarts_last",
    "apgd_dlr",
    "apgd_t",
    "fab_t",
    "fmn_l0",
    "ddn",
    "mora",
    "ead",
    "nes",
    "rescaled",
    "mim_ni_si_ti_vmi",
    "mdi2fgsm",
)
# These walk far or search: a second program of theirs takes twice as long to compile as another's.
SEARCHES = (
    "arc",
    "fab",
    "fmn",
    "deepfool",
    "trust_region",
    "boundary",
    "hop_skip_jump",
    "averaged",
    "smallest_eps",
    "sparse_rs",
    "sigma_zero",
)
# Other settings of an attack that is asked itself.
SETTINGS = ("pgd_margin_restarts", "pgd_parallel_restarts_last", "apgd_dlr", "fab_t")
# Rows, a linear optimum and the norms are asked of one of each kind of steps.
SIBLINGS = (*VARIANTS, *SEARCHES, "carlini_wagner")


def bounded(name):
    """Returns a bounded attack as a function of the norm and eps."""

    def make(norm=HOME.get(name, "linf"), eps=None):
        return BOUNDED[name](ThreatModel(norm, EPS[norm] if eps is None else eps))

    return make
