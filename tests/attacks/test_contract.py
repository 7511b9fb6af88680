"""What every attack guarantees; a new attack adds one row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

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
from robust_jax.attacks.decision import DecisionAttack
from robust_jax.attacks.fmn import MovingBallAttack

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
KEY = jax.random.key(7)


@jax.jit
def run(attack, view, images, labels, index=None):
    """Returns the adversarial images; compiled once for an attack and a shape, whatever its eps."""
    return attack(view, images, labels, key=KEY, index=index)


FOUND = {}


def attacked(attack, victim):
    """Returns the adversarial images of all of a victim's images, which many tests look at."""
    name = attack, id(victim)
    if name not in FOUND:
        FOUND[name] = run(attack, victim.view, victim.images, goals(attack, victim))
    return FOUND[name]


def bounded(name):
    """Returns a bounded attack as a function of the norm and eps."""

    def make(norm=HOME.get(name, "linf"), eps=None):
        return BOUNDED[name](ThreatModel(norm, EPS[norm] if eps is None else eps))

    return make


def slow_among(names, name):
    """Returns the marks of an attack where an assertion compiles a program of its own."""
    if name not in names:
        return ()
    return (pytest.mark.nightly,) if name in VARIANTS else (pytest.mark.slow,)


EVERY_BOUNDED = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=slow_among((*VARIANTS, *SEARCHES), name)) for name in BOUNDED]
)


@pytest.fixture(params=[*BOUNDED, *UNBOUNDED])
def attack(request):
    """Every attack."""
    if request.param in UNBOUNDED:
        return UNBOUNDED[request.param]
    return bounded(request.param)()


@pytest.fixture
def victim(attack, digits, integer_digits):
    """What an attack is compared with itself on; of the last bit a search makes a new path."""
    searches = DecisionAttack, SigmaZero, MovingBallAttack
    return integer_digits if isinstance(getattr(attack, "attack", attack), searches) else digits


def goals(attack, victim):
    """The labels that an attack is given: of a targeted one another class than the image's."""
    return (victim.labels + 1) % 10 if attack.targeted else victim.labels


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        pytest.param(norm, name, marks=slow_among(SIBLINGS if norm != "linf" else SETTINGS, name))
        for norm in ("linf", "l2")
        for name in BOUNDED
        if name not in HOME
    ]
    + [(norm, name) for name, norm in HOME.items()]
    + [
        pytest.param("l1", name, marks=slow_among(("apgd", "fab", "fmn", "square"), name))
        for name in IN_L1
    ],
)
def test_box_ball_shape_dtype(name, norm, digits):
    attack = bounded(name)(norm)
    adversarial = attacked(attack, digits)
    assert adversarial.shape == digits.images.shape
    assert adversarial.dtype == digits.images.dtype
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1
    distance = attack.threat.distance(adversarial, digits.images)
    assert float(distance.max()) <= attack.threat.eps + 1e-6
    assert float(distance.max()) > 0.2 * attack.threat.eps


@pytest.mark.parametrize("name", UNBOUNDED)
def test_box_shape_dtype_without_a_bound(name, digits):
    attack = UNBOUNDED[name]
    adversarial = attacked(attack, digits)
    assert adversarial.shape == digits.images.shape
    assert adversarial.dtype == digits.images.dtype
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1
    fooled = jnp.argmax(digits.view(adversarial, key=None), axis=1) != digits.labels
    assert int(fooled.sum()) > 4
    # A failure gives the clean image.
    changed = jnp.any(adversarial != digits.images, axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, fooled)


@pytest.mark.parametrize(
    "attack",
    [pytest.param(n, marks=slow_among((*SIBLINGS, "spsa"), n)) for n in [*BOUNDED, *UNBOUNDED]],
    indirect=True,
)
def test_rows_are_independent(attack, victim):
    labels, together = goals(attack, victim), attacked(attack, victim)
    assert jnp.any(together != victim.images)
    one = run(attack, victim.view, victim.images[3:4], labels[3:4], jnp.asarray([3]))
    np.testing.assert_allclose(one, together[3:4], atol=2e-5)
    # Six rows in another order, then padding, spread over four devices.
    rows = jnp.asarray([5, 2, 11, 0, 15, 7])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    images, padded, index = jax.device_put(
        (
            jnp.concatenate([victim.images[rows], jnp.zeros_like(victim.images[:2])]),
            jnp.concatenate([labels[rows], labels[:2]]),
            jnp.concatenate([rows, jnp.asarray([0, 0])]),
        ),
        NamedSharding(mesh, PartitionSpec("data")),
    )
    spread = run(attack, victim.view, images, padded, index)
    assert len(spread.sharding.device_set) == 4
    np.testing.assert_allclose(spread[:6], together[rows], atol=2e-5)


@pytest.mark.parametrize(
    "attack",
    [pytest.param(n, marks=slow_among((*VARIANTS, *SEARCHES), n)) for n in [*BOUNDED, *UNBOUNDED]],
    indirect=True,
)
def test_jit_is_eager_and_no_gradient_flows_out(attack, victim):
    labels = goals(attack, victim)

    def total(scale):
        view = jax.tree.map(lambda leaf: leaf * scale, victim.view)
        adversarial = attack(view, victim.images * scale, labels, key=KEY)
        return jnp.sum(adversarial), adversarial

    slope, eager = jax.grad(total, has_aux=True)(1.0)
    assert float(slope) == 0
    np.testing.assert_allclose(attacked(attack, victim), eager, atol=2e-5)


@EVERY_BOUNDED
def test_eps_zero_is_the_identity(name, digits):
    adversarial = attacked(bounded(name)(eps=0.0), digits)
    np.testing.assert_array_equal(adversarial, digits.images)


def test_empty_batch(attack, digits):
    empty = attack(digits.view, digits.images[:0], digits.labels[:0], key=KEY)
    assert empty.shape == (0, 8, 8, 1)


@EVERY_BOUNDED
def test_fools_more_with_more_eps(name, digits):
    def standing(eps):
        logits = digits.view(attacked(bounded(name)(eps=eps), digits), key=None)
        return int(jnp.sum(jnp.argmax(logits, axis=1) == digits.labels))

    eps = bounded(name)().threat.eps
    weak, strong = standing(eps), standing(4 * eps)
    assert strong <= weak <= 16
    assert strong <= 8


def test_targeted_attacks_say_so():
    threat = ThreatModel("linf", 0.1)
    assert [name for name in BOUNDED if bounded(name)().targeted] == []
    assert [name for name, attack in UNBOUNDED.items() if attack.targeted] == ["jsma"]
    pgd = PGD(threat, targeted=True)
    for attack in (pgd, Averaged(threat, pgd), JSMA().within(0.1, norm="linf")):
        assert attack.targeted


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=slow_among(set(SIBLINGS) - {"bim", "mim"}, name))
        for name in BOUNDED
        if name not in NOT_STEEPEST
    ],
)
def test_optimum_on_a_linear_model(name, linear):
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    sign = jnp.where(linear.labels == 0, 1, -1)[:, None, None, None]

    def adversarial(threat):
        return attacked(BOUNDED[name](threat), linear)

    np.testing.assert_allclose(
        adversarial(ThreatModel("linf", 0.05)),
        linear.images + 0.05 * sign * jnp.sign(weights)[None],
        atol=1e-6,
        err_msg="what need not climb to the corner of the ball belongs in NOT_STEEPEST",
    )
    unit = weights / jnp.linalg.norm(weights)
    delta = adversarial(ThreatModel("l2", 0.05)) - linear.images
    reached = jnp.sum(delta * sign * unit[None], axis=(1, 2, 3))
    assert float(reached.min()) > 0.05 * 0.9
