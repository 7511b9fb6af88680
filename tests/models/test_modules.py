"""Modules of other libraries are judged as functions of the same arrays are."""

import sys

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from robust_jax import evaluation
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.evaluation import AttackRun, Evaluation, Model
from robust_jax.models import modules
from robust_jax.runtime import sharding

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2 * 3 * 3, 4)).astype(np.float32)
"""Of channels, rows and columns."""
IMAGES = RNG.uniform(size=(10, 3, 3, 2)).astype(np.float32)
CHANNELS_FIRST = np.moveaxis(IMAGES, -1, 1)
EXPECTED = CHANNELS_FIRST.reshape(10, -1) @ WEIGHTS


def plain(images):
    return jnp.moveaxis(images, -1, 1).reshape(len(images), -1) @ WEIGHTS


class Nnx(nnx.Module):
    """Dropout and statistics that evaluation leaves alone."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.weights = nnx.Param(jnp.asarray(WEIGHTS))
        self.norm = nnx.BatchNorm(4, use_bias=False, use_scale=False, epsilon=0.0, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, images):
        flat = jnp.moveaxis(images, -1, 1).reshape(len(images), -1)
        return self.dropout(self.norm(flat @ self.weights[...]))


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, images):
        weights = self.param("weights", lambda key: jnp.asarray(WEIGHTS))
        return jnp.moveaxis(images, -1, 1).reshape(len(images), -1) @ weights


def of_nnx(**fields):
    return Model.of(Nnx(), num_classes=4, **fields)


def of_linen(**fields):
    return Model.of(Linen(), {"params": {"weights": WEIGHTS}}, num_classes=4, **fields)


def of_equinox(**fields):
    eqx = pytest.importorskip("equinox")

    class Equinox(eqx.Module):
        weights: jax.Array
        dropout: eqx.nn.Dropout

        def __call__(self, image, *, key=None):
            return self.dropout(image.reshape(-1) @ self.weights, key=key)

    return Model.of(Equinox(jnp.asarray(WEIGHTS), eqx.nn.Dropout(0.5)), num_classes=4, **fields)


def of_torch(**fields):
    torch = pytest.importorskip("torch")

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS))
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, images):
            return self.dropout(images.flatten(1) @ self.weights)

    return Model.of(Torch(), num_classes=4, **fields)


KINDS = [of_nnx, of_linen, of_equinox, of_torch]
each_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__[3:])


def scores(model, images=IMAGES, **fields):
    on = model.on(sharding.make_mesh(1))
    return jax.jit(on.method.predict)(on.variables, jnp.asarray(images), **fields)


@each_kind
def test_logits_are_the_modules(make):
    model = make()
    assert model.name == make.__name__[3:].capitalize()
    np.testing.assert_allclose(scores(model), EXPECTED, rtol=1e-5, atol=1e-5)
    members = model.method.view("members")(model.variables, jnp.asarray(IMAGES))
    np.testing.assert_allclose(members[0], EXPECTED, rtol=1e-5, atol=1e-5)


@each_kind
def test_gradients_are_the_modules(make):
    model = make()

    def loss(images, key=None):
        return jax.nn.logsumexp(model.method.predict(model.variables, images, key=key)).sum()

    def expected(images):
        return jax.nn.logsumexp(plain(images)).sum()

    found = jax.jit(jax.grad(loss))(jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, jax.grad(expected)(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.quick_one_in(4)
@each_kind
def test_an_evaluation_is_that_of_the_function(make):
    attack = AttackRun(PGD(ThreatModel("linf", 0.1), num_steps=5))
    wanted = Evaluation({"pgd": attack}, batch_size=4, sanity=False, measures={})
    labels = EXPECTED.argmax(-1)
    labels[:2] = (labels[:2] + 1) % 4
    mesh = sharding.make_mesh(4)
    found = evaluation.run(make(), (IMAGES, labels), wanted, mesh=mesh).summary
    alike = Model.of(plain, num_classes=4)
    expected = evaluation.run(alike, (IMAGES, labels), wanted, mesh=mesh).summary
    assert found["clean_accuracy"] == 0.8
    assert found["robust_accuracy"] == expected["robust_accuracy"]


@pytest.mark.parametrize("make", [of_nnx, of_equinox, of_torch], ids=["nnx", "equinox", "torch"])
def test_what_draws_draws_by_the_key(make):
    """In the mode it is in: dropout, which drops half and doubles the rest."""
    model = make(stochastic=True)
    one, same, other = (np.asarray(scores(model, key=jax.random.key(n))) for n in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert 0.2 < (one == 0).mean() < 0.8


class AlwaysNoisy(nnx.Module):
    """Draws in every mode, of two streams that have names of their own."""

    def __init__(self):
        self.rngs = nnx.Rngs(noise=0, more=1)

    def __call__(self, images):
        streams = self.rngs.noise, self.rngs.more
        return plain(images + sum(0.1 * stream.normal(images.shape) for stream in streams))


def always_noisy_torch():
    torch = pytest.importorskip("torch")

    class AlwaysNoisyTorch(torch.nn.Module):
        def forward(self, images):
            noisy = images + 0.1 * torch.randn_like(images)
            return noisy.flatten(1) @ torch.tensor(WEIGHTS)

    return AlwaysNoisyTorch()


@pytest.mark.parametrize("make", [AlwaysNoisy, always_noisy_torch])
def test_what_draws_and_does_not_say_so_is_refused(make):
    """One draw that is seen again and again is another network, which attacks break by its own."""
    with pytest.raises(ValueError, match="given with stochastic=True"):
        scores(Model.of(make(), num_classes=4))
    drawing = Model.of(make(), num_classes=4, stochastic=True)
    one, other = (np.asarray(scores(drawing, key=jax.random.key(n))) for n in (0, 1))
    assert not np.allclose(one, other)


class Compiled(Nnx):
    """Hands its counts back as new arrays, equal to those it was given."""

    @nnx.jit
    def __call__(self, images):
        return super().__call__(images)


def test_a_compiled_module_that_draws_nothing_is_taken():
    found = scores(Model.of(Compiled(), num_classes=4))
    np.testing.assert_allclose(found, EXPECTED, rtol=1e-5, atol=1e-5)


def test_draws_of_small_logits_are_seen():
    torch = pytest.importorskip("torch")

    class Small(torch.nn.Module):
        def forward(self, images):
            return 1e-5 * (images.flatten(1) @ torch.tensor(WEIGHTS) + torch.randn(4))

    with pytest.raises(ValueError, match="given with stochastic=True"):
        scores(Model.of(Small(), num_classes=4))


def test_a_module_is_left_as_it_was():
    module = Nnx()
    Model.of(module, num_classes=4)
    assert not module.dropout.deterministic


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_pixels_and_axes_are_as_is_said(layout):
    def function(images):
        assert images.shape == ((10, 3, 3, 2) if layout == "NHWC" else (10, 2, 3, 3))
        first = images if layout == "NCHW" else jnp.moveaxis(images, -1, 1)
        return first.reshape(10, -1) @ (WEIGHTS / 255)

    model = Model.of(function, num_classes=4, layout=layout, scale=255)
    np.testing.assert_allclose(scores(model), EXPECTED, rtol=1e-5, atol=1e-5)


def test_members_and_surrogates_may_be_modules():
    model = Model.of(
        lambda images: jnp.round(plain(images)), num_classes=4, surrogate=Nnx(),
        members=lambda images: jnp.stack([plain(images), -plain(images)]),
    )  # fmt: skip
    view = model.method.view("surrogate")
    np.testing.assert_allclose(
        view(model.variables, jnp.asarray(IMAGES)), EXPECTED, rtol=1e-5, atol=1e-5
    )
    member = model.method.view("member_1")(model.variables, jnp.asarray(IMAGES))
    np.testing.assert_allclose(member, -EXPECTED, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "variables", "stochastic", "match"),
    [
        (Nnx(), {}, False, "variables of Nnx to be None"),
        (Linen(), None, False, "no variables"),
        (Linen(), {}, True, "stochastic=True"),
    ],
)
def test_what_cannot_be_taken_is_said(given, variables, stochastic, match):
    with pytest.raises(ValueError, match=match):
        modules.as_function(given, variables, stochastic=stochastic)


def test_libraries_are_not_imported_for_others(monkeypatch):
    monkeypatch.delitem(sys.modules, "equinox", raising=False)
    monkeypatch.delitem(sys.modules, "torch.nn", raising=False)
    Model.of(plain, num_classes=4)
    assert "equinox" not in sys.modules


def torch_kinds():
    """Returns modules that are no plain network of float32, by name; all compute the same."""
    torch = pytest.importorskip("torch")

    class Kind(torch.nn.Module):
        def __init__(self, dtype=torch.float32):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS).to(dtype))

        def forward(self, images):
            return images.flatten(1) @ self.weights

    class InPlace(Kind):
        def forward(self, images):
            return super().forward(images.mul_(2).div_(2))

    class NoGradient(Kind):
        @torch.no_grad()
        def forward(self, images):
            return super().forward(images)

    return {
        "float64": Kind(torch.float64), "bfloat16": Kind(torch.bfloat16), "in place": InPlace(),
        "no gradient": NoGradient(),
    }  # fmt: skip


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("kind", ["float64", "bfloat16", "in place", "no gradient"])
def test_torch_modules_of_every_kind(kind):
    model = Model.of(torch_kinds()[kind], num_classes=4)
    before = IMAGES.copy()

    def total(images):
        scores = model.method.predict(model.variables, images)
        return scores[:, 0].sum(), scores

    gradient, scores = jax.grad(total, has_aux=True)(jnp.asarray(IMAGES))
    atol = 0.05 if kind == "bfloat16" else 1e-5  # eight bits
    np.testing.assert_allclose(scores, EXPECTED, atol=atol)
    expected = jax.grad(lambda images: plain(images)[:, 0].sum())(jnp.asarray(IMAGES))
    if kind == "no gradient":
        expected = jnp.zeros_like(expected)
    np.testing.assert_allclose(gradient, expected, atol=atol)
    np.testing.assert_array_equal(IMAGES, before)
