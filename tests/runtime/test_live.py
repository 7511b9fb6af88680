"""Functions that change between two calls: what is attacked is what they are at the call."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from robust_jax import analysis, attacks, certify
from robust_jax.attacks import APGD, FGSM, PGD, AutoAttack, ThreatModel, as_view, bind
from robust_jax.certify import Margins, Smoothing
from robust_jax.runtime import programs
from tests.compilations import count_compilations

KEY = jax.random.key(3)
THREAT = ThreatModel("linf", 0.1)
IMAGES = jax.random.uniform(jax.random.key(0), (4, 2, 3, 1))
LABELS = jnp.array([0, 1, 2, 0])
FIRST, SECOND = jax.random.normal(jax.random.key(1), (2, 6, 3))


def test_draws_from_the_host_are_made_once_and_said():
    """What NumPy's generator gives while a function is traced stays for every call."""

    def view(images):
        noise = np.random.normal(size=(1, 3)).astype(np.float32)  # noqa: NPY002
        return images.reshape(len(images), -1) @ FIRST + noise

    attack = FGSM(THREAT)
    with pytest.warns(UserWarning, match="Expected a function to draw from its key; it drew from"):
        attack(as_view(view), IMAGES, LABELS, key=KEY)


class Model:
    """A linear model whose weights can be changed, as a caller may hold one."""

    def __init__(self, weights):
        self.weights = weights
        self.held_view: Any = None

    def logits(self, images):
        return images.reshape(len(images), -1) @ self.weights

    def view(self, images, *, key):
        del key
        return self.logits(images)

    def members(self, images, *, key):
        return jnp.stack([self.view(images, key=key), -self.view(images, key=key)])

    def taps(self, images, *, key):
        hidden = jnp.tanh(self.view(images, key=key))
        return {"conv0": hidden[:, None, None], "conv1": hidden[:, None, None, :1]}


def fgsm(view):
    return FGSM(THREAT)(view, IMAGES, LABELS, key=KEY)


def of_weights(variables, images, *, key):
    return Model(variables["weights"]).view(images, key=key)


def suite(model):
    attack = AutoAttack(THREAT, version="custom", attacks=(APGD(THREAT, num_steps=2),))
    return attack.report(model.view, IMAGES, LABELS, key=KEY).images


def own_suite(model):
    attack = attacks.Suite(THREAT, attacks=(PGD(THREAT, num_steps=2),))
    return attack.report(model.view, IMAGES, LABELS, key=KEY).images


def frugal(model):
    # In so large a ball the first run fells all: what runs does not depend on the model.
    ball = ThreatModel("linf", 1.0)
    attack = attacks.FrugalAttack(
        ball, num_steps=10, num_near=1, num_untargeted_steps=0, num_targets=0
    )
    return attack.report(model.view, IMAGES, LABELS, key=KEY).images


def whether_finite(model):
    try:
        attacks.check_logits(model.view, IMAGES, LABELS, key=KEY)
    except ValueError:
        return np.zeros(1)
    return np.ones(1)


# What is made of a model, for each public callable that takes a function.
MADE = {
    "Attack": lambda m: fgsm(m.view),
    "AutoAttack": suite,
    "FrugalAttack": frugal,
    "Suite": own_suite,
    "as_view": lambda m: fgsm(m.held_view),
    "bind": lambda m: fgsm(bind(of_weights, {"weights": m.weights})),
    "check_logits": whether_finite,
    "eot": lambda m: fgsm(attacks.eot(m.view, 2)),
    "frozen": lambda m: fgsm(attacks.frozen(m.view, key=KEY)),
    "nes": lambda m: fgsm(attacks.nes(m.view, 2)),
    "straight_through": lambda m: fgsm(attacks.straight_through(m.view, m.view)),
    "over_dataset": lambda m: attacks.over_dataset(
        FGSM(THREAT), m.view, IMAGES, LABELS, key=KEY, batch_size=2, progress=False
    ),
    "over_radii": lambda m: (
        attacks.over_radii(
            FGSM(THREAT), m.view, IMAGES, LABELS, eps=[0.05, 0.1], key=KEY, batch_size=4
        ).images
    ),
    "standing_with_twice_the_draws": lambda m: jnp.stack(
        attacks.standing_with_twice_the_draws(
            FGSM(THREAT), m.view, IMAGES, LABELS, num_samples=1, judge=m.view, key=KEY
        )
    ),
    "trajectory": lambda m: (
        attacks.trajectory(FGSM(THREAT), m.view, IMAGES, LABELS, key=KEY).losses
    ),
    "Margins": lambda m: Margins(0.01)(m.logits, IMAGES, LABELS).margin,
    "Smoothing": lambda m: Smoothing(0.1, num_samples=20)(m.view, IMAGES, key=KEY).label,
    "crown_margins": lambda m: certify.crown_margins(m.logits, IMAGES, LABELS, 0.01),
    "interval_bounds": lambda m: certify.interval_bounds(m.logits, IMAGES, IMAGES).lower,
    "interval_margins": lambda m: certify.interval_margins(m.logits, IMAGES, IMAGES, LABELS),
    "member_gradients": lambda m: analysis.member_gradients(m.members, IMAGES, LABELS, key=KEY),
    "member_views": lambda m: fgsm(analysis.member_views(m.members, 2)[1]),
    "similarity": lambda m: analysis.similarity(m.taps, [IMAGES, IMAGES], key=KEY).cka,
    "transfer": lambda m: (
        analysis.transfer(FGSM(THREAT), [m.view], m.members, IMAGES, LABELS, key=KEY).members
    ),
}


def takes_a_function(value) -> bool:
    parameters = inspect.signature(value.__call__ if inspect.isclass(value) else value).parameters
    names = {"view", "fn", "forward", "predict", "logits", "function", "members", "taps"}
    return any(p.name in names and "Mapping" not in str(p.annotation) for p in parameters.values())


def test_every_public_callable_that_takes_a_function_is_here():
    found = set()
    for module in (attacks, certify, analysis):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, attacks.Attack):
                own = value.__call__ is not attacks.Attack.__call__
                found.add(name if own else "Attack")
            elif callable(value) and name != "View" and takes_a_function(value):
                found.add(name)
    assert found | {"bind"} == set(MADE)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "AutoAttack" else n for n in MADE]
)
def test_a_model_is_what_it_is_at_the_call(name):
    def made(model):
        model.held_view = as_view(model.logits)
        return np.asarray(MADE[name](model))

    # The same object with other weights does as another object that never had any else.
    model = Model(FIRST)
    model.held_view = as_view(model.logits)
    before = np.asarray(MADE[name](model))
    model.weights = SECOND if name != "check_logits" else jnp.full_like(SECOND, jnp.nan)
    compilations = programs.executable.cache_info().misses
    after = np.asarray(MADE[name](model))
    assert programs.executable.cache_info().misses == compilations
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, made(Model(model.weights)))


def linear(weights):
    return lambda images: images.reshape(len(images), -1) @ weights


class Linear(nnx.Module):
    """A model of one layer."""

    def __init__(self):
        self.layer = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.layer(images.reshape(len(images), -1))


def an_nnx_module():
    model = Linear()
    view = as_view(model)

    def change(weights):
        model.layer.kernel[...] = weights

    return view, change


def a_jitted_closure():
    model = Model(FIRST)

    def logits(images):
        return jax.jit(lambda images: model.logits(images))(images)

    def change(weights):
        model.weights = weights

    return as_view(logits), change


def a_closure_with_a_derivative_of_its_own():
    model = Model(FIRST)

    def logits(images):
        @jax.custom_vjp
        def product(images):
            return model.logits(images)

        def backward(weights, slope):
            return ((slope @ weights.T).reshape(IMAGES.shape),)

        product.defvjp(lambda images: (model.logits(images), model.weights), backward)
        return product(images)

    def change(weights):
        model.weights = weights

    return as_view(logits), change


def a_method_with_arrays_of_its_own():
    class Scaled(Model):
        def scaled(self, variables, images, *, key):
            return variables["scale"] * self.view(images, key=key)

    model = Scaled(FIRST)

    def change(weights):
        model.weights = weights

    return bind(model.scaled, {"scale": jnp.ones(())}), change


def a_numpy_array_in_place():
    weights = np.array(FIRST)
    return as_view(lambda images: linear(weights)(images)), lambda new: np.copyto(weights, new)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(
    "make",
    [
        an_nnx_module,
        a_jitted_closure,
        a_closure_with_a_derivative_of_its_own,
        a_method_with_arrays_of_its_own,
        a_numpy_array_in_place,
    ],
    ids=lambda make: make.__name__,
)
def test_other_weights_compile_nothing(make):
    view, change = make()
    attack = PGD(THREAT, num_steps=2)

    def run():
        return np.asarray(attack(view, IMAGES, LABELS, key=KEY))

    change(FIRST)
    run()
    for weights in (SECOND, FIRST):
        change(weights)
        found = []
        assert count_compilations(lambda found=found: found.append(run())) == 0
        truth = attack(as_view(linear(weights)), IMAGES, LABELS, key=KEY)
        np.testing.assert_allclose(found[0], truth, atol=1e-6)  # another order of products


def test_another_program_is_another_one():
    scale = 1.0

    def logits(images):
        return jnp.sin(scale * linear(FIRST)(images))

    before = fgsm(as_view(logits))
    scale = 20.0
    after = fgsm(as_view(logits))
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, fgsm(as_view(lambda x: jnp.sin(20.0 * linear(FIRST)(x)))))


def test_bound_arrays_pay_no_tracing():
    traced = []

    def logits(variables, images, *, key):
        traced.append(len(images))
        return of_weights(variables, images, key=key)

    fgsm(bind(logits, {"weights": FIRST}))
    count = len(traced)
    fgsm(bind(logits, {"weights": SECOND}))
    assert len(traced) == count


def test_a_held_function_is_traced_once_a_batch_size():
    traced = []

    def logits(images):
        traced.append(len(images))
        return linear(FIRST)(images)

    def run(num_batches):
        traced.clear()
        images, labels = (jnp.concatenate([x] * num_batches) for x in (IMAGES, LABELS))
        attacks.over_dataset(
            FGSM(THREAT), as_view(logits), images, labels, key=KEY, batch_size=4, progress=False
        )
        return len(traced)

    assert run(1) == run(4) > 0


def test_arrays_of_a_callers_transformation_can_be_captured():
    @jax.jit
    def inside(weights):
        return FGSM(THREAT)(as_view(linear(weights)), IMAGES + 0 * weights[0, 0], LABELS, key=KEY)

    for weights in (FIRST, SECOND):
        np.testing.assert_allclose(inside(weights), fgsm(as_view(linear(weights))), atol=1e-6)


def test_no_function_is_kept():
    kept = programs.executable.cache_info().currsize
    for _ in range(3):
        fgsm(as_view(linear(FIRST)))
    assert programs.executable.cache_info().currsize <= kept + 2
