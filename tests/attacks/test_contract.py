"""What every attack guarantees; a new attack adds one row (tests/attacks/rows.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robust_jax.attacks import JSMA, PGD, Averaged, SigmaZero, ThreatModel
from robust_jax.attacks.decision import DecisionAttack
from robust_jax.attacks.fmn import MovingBallAttack
from tests.attacks.rows import (
    BOUNDED,
    HOME,
    IN_L1,
    NOT_STEEPEST,
    SEARCHES,
    SETTINGS,
    SIBLINGS,
    UNBOUNDED,
    VARIANTS,
    bounded,
)

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


@pytest.mark.quick_one_in(6)
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


@pytest.mark.quick_one_in(4)
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


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(n, marks=slow_among((*SIBLINGS, "spsa", "fgsm", "apgd", "arc"), n))
        for n in [*BOUNDED, *UNBOUNDED]
    ],
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


@pytest.mark.quick_one_in(6)
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


@pytest.mark.quick_one_in(3)
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
