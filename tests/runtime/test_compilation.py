"""How the library compiles its own steps."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax.runtime import compilation


def test_options_reach_the_compiler_of_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(compilation, "CPU_OPTIONS", {"xla_no_such_option": 1})
    refused = compilation.jitted(lambda x: x + 1)
    with pytest.raises(Exception, match="xla_no_such_option"):
        refused(jnp.ones(3))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.jitted(lambda x: x + 1)(jnp.ones(3)).tolist() == [2, 2, 2]


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
