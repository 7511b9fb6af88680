"""How the library compiles its own steps."""

import os

import jax
import jax.numpy as jnp
import pytest

from robust_jax.attacks import FGSM, ThreatModel, base, bind
from robust_jax.runtime import compilation, programs
from robust_jax.runtime.live import compiled


def test_options_reach_the_compiler_of_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(compilation, "CPU_OPTIONS", {"xla_no_such_option": 1})
    refused = compilation.jitted(lambda x: x + 1)
    with pytest.raises(Exception, match="xla_no_such_option"):
        refused(jnp.ones(3))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.jitted(lambda x: x + 1)(jnp.ones(3)).tolist() == [2, 2, 2]


def test_what_xla_flags_names_stays_as_it_says():
    assert "--xla_backend_optimization_level=0" in os.environ["XLA_FLAGS"]  # tests/conftest.py
    assert compilation.CPU_OPTIONS.keys() == {"xla_cpu_experimental_ynn_fusion_type"}


VIEWS = [lambda x, *, key: x[:, :2], bind(lambda v, x, *, key: x @ v["w"], {"w": jnp.eye(3, 2)})]


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=["a function", "bound"])
def test_options_reach_an_attack_that_is_called_at_the_top_level_alone(monkeypatch, request, view):
    def attacked(images, labels):
        return FGSM(ThreatModel("linf", 0.1))(view, images, labels, key=jax.random.key(0))

    # What else an attack compiles has its options at its first call, for other tests too.
    attacked(jnp.full((1, 3), 0.4), jnp.zeros(1, int))
    request.addfinalizer(programs.executable.cache_clear)
    monkeypatch.setattr(compilation, "CPU_OPTIONS", {"xla_no_such_option": 1})
    monkeypatch.setattr(base, "_perturbed", compiled(base.perturbed))
    programs.executable.cache_clear()
    arguments = jnp.full((2, 3), 0.4), jnp.zeros(2, int)

    with pytest.raises(Exception, match="xla_no_such_option"):
        attacked(*arguments)
    assert jax.jit(attacked)(*arguments).shape == (2, 3)
    assert jax.vmap(attacked)(*jax.tree.map(lambda x: x[None], arguments)).shape == (1, 2, 3)


def test_fields_are_those_of_jit():
    double = compilation.jitted(lambda x, times: x * times, static_argnames="times")
    assert double(jnp.ones(2), times=2.0).tolist() == [2, 2]


def test_values_are_kept_on_the_cpu_alone(monkeypatch):
    def primitives():
        jaxpr = jax.make_jaxpr(lambda x: compilation.computed_once(x))(jnp.ones(3))
        return [equation.primitive.name for equation in jaxpr.eqns]

    assert primitives() == ["optimization_barrier"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert primitives() == []


@pytest.mark.usefixtures("quick_programs")
def test_options_of_one_test_are_no_other_s():
    """A function keeps what it is first compiled with: a later test may compare bits."""
    doubled = compilation.jitted(lambda x: 2 * x)
    assert doubled(jnp.ones(2)).tolist() == [2, 2]
    assert "outermost" not in vars(doubled)
