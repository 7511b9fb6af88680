"""Layers with M stacked weights, one of which a forward pass selects: what RLS draws from.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020, equations 1 to 4.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, Key

from robust_jax.models import Conv, Layers, default_layers
from robust_jax.types import Variables

Unit = Literal["conv", "block"]

Index = Int[Array, ""] | Int[Array, " b"]

Choose = Callable[[str], Index]
"""Name of a unit -> which of its M weights a sampled model has, or each row's own one."""


class SampledLayer(nn.Module):
    """A layer with M stacked weights (and statistics), one of which is selected, then applied.

    Only the weights are indexed, so the activations are those of one layer, and the gradient of
    weights that were not selected is zero. Where every row of a batch has a model of its own, all M
    layers are applied to all rows, and a row of each output is taken: M times the work, where a
    copy of its weights for every row would be many times the memory.
    """

    make_layer: Callable[[], nn.Module]
    num_choices: int
    choose: Callable[[tuple[str, ...]], Index]

    @nn.compact
    def __call__(self, x: Float[Array, "b *k"], *, train: bool, deterministic: bool) -> Array:
        """Returns the selected layer's output; `train` moves its statistics alone."""
        layer = self.make_layer()
        if isinstance(layer, Conv):
            layer = layer.clone(place=self.path)

        def fresh(key: Key[Array, ""]) -> Variables:
            return layer.init(key, x, train=False, deterministic=True)

        def stacked(key: Key[Array, ""], collection: str, name: str) -> Array:
            keys = jax.random.split(key, self.num_choices)
            return jax.vmap(lambda one: fresh(one)[collection][name])(keys)

        if self.is_initializing():  # later on nothing of this is traced again
            names = {k: list(v) for k, v in jax.eval_shape(fresh, jax.random.key(0)).items()}
            for name in names["params"]:
                self.param(name, functools.partial(stacked, collection="params", name=name))
            for name in names.get("batch_stats", ()):
                # Statistics start at constants, whatever the key.
                self.variable(
                    "batch_stats",
                    name,
                    lambda name=name: stacked(jax.random.key(0), "batch_stats", name),
                )
        params, statistics = (self.variables.get(k, {}) for k in ("params", "batch_stats"))
        index = self.choose(self.path)

        # Equation 3: w_l, of the stacked W_l.
        def selected(index: Int[Array, ""]) -> dict[str, dict[str, Array]]:
            return {
                collection: {
                    name: lax.dynamic_index_in_dim(stack, index, keepdims=False)
                    for name, stack in stacks.items()
                }
                for collection, stacks in (("params", params), ("batch_stats", statistics))
            }

        def applied(index: Int[Array, ""], *, mutable: list[str]) -> tuple[Array, Variables]:
            rngs = None if deterministic else {"sample": self.make_rng("sample")}
            return layer.apply(
                selected(index),
                x,
                train=train,
                deterministic=deterministic,
                rngs=rngs,
                mutable=mutable,
            )

        if index.ndim:
            if train:
                raise ValueError("Expected train=True with one model for all rows.")
            output = jnp.zeros(())
            for number in range(self.num_choices):
                found, _ = applied(jnp.asarray(number), mutable=[])
                here = (index == number).reshape((-1,) + (1,) * (found.ndim - 1))
                output = jnp.where(here, found, output)
            return output
        moves = train and bool(statistics)
        output, moved = applied(index, mutable=["batch_stats"] if moves else [])
        if moves and not self.is_initializing():
            for name, stack in statistics.items():
                updated = moved["batch_stats"][name]
                updated = lax.dynamic_update_index_in_dim(stack, updated, index, 0)
                self.put_variable("batch_stats", name, updated)
        return output


def unit_name(path: tuple[str, ...], unit: Unit) -> str:
    """Returns the unit of a layer: a convolution and the BatchNorm of its name share one.

    Args:
        path: of the layer's module, from the classifier on.
        unit: "conv", or "block" for one unit per residual block.
    """
    inner = list(path[1:])  # after "backbone"
    if unit == "block" and len(inner) > 1:
        return inner[0]
    *outer, last = inner
    return ".".join((*outer, last.replace("norm", "conv").removesuffix("_conv")))


def sampled_layers(num_choices: int, choose: Choose, unit: Unit = "conv") -> Layers:
    """Returns factories of layers with M weights each.

    Args:
        num_choices: M.
        choose: which weights each unit has; traced indices are fine.
        unit: what is drawn together.
    """
    plain = default_layers()

    def sampled(make):
        def factory(*, name: str | None = None, **arguments) -> nn.Module:
            # Detached (parent=None): the stacked layer holds the arrays under its own name.
            return SampledLayer(
                make_layer=functools.partial(make, parent=None, **arguments),
                num_choices=num_choices,
                choose=lambda path: choose(unit_name(path, unit)),
                name=name,
            )

        return factory

    return plain._replace(
        conv=sampled(plain.conv), norm=sampled(plain.norm), dense=sampled(plain.dense)
    )
