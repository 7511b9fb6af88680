"""Which layers of REGroup vote."""

import chex
import jax
import jax.numpy as jnp
import pytest

from robust_jax.methods import REGroup
from robust_jax.methods.regroup_fit import choose
from robust_jax.models import CNNConfig, WideResNetConfig, default_layers
from robust_jax.models.base import in_network_order
from robust_jax.types import Batch, Task


def test_a_hundred_layers_vote_in_network_order():
    network = WideResNetConfig(depth=70, widening=1).make(10, default_layers())
    taps = jax.eval_shape(
        lambda key, images: network.init_with_output(
            key, images, train=False, deterministic=True
        )[0].taps,
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)),
    )  # fmt: skip
    names = [name for name in taps if not name.endswith(".pre_act")]
    assert len(taps) > 100
    # A dict that went through jit has its keys sorted as strings.
    found = REGroup(num_layers=5).voting_layers(names)
    assert found == (
        "96.layer3.9.conv1", "97.layer3.9.conv2", "99.layer3.10.conv1", "100.layer3.10.conv2",
        "102.head",
    )  # fmt: skip
    assert choose(dict.fromkeys(names, 1.0), 0.5) == in_network_order(names)


def test_layers_are_chosen_by_their_accuracy():
    accuracy = {"00.a": 0.9, "01.b": 0.5, "02.c": 0.75, "03.d": 0.8}
    assert choose(accuracy, 0.75) == ("00.a", "02.c", "03.d")
    assert choose(accuracy, 0.76) == ("00.a", "03.d")
    with pytest.raises(ValueError, match=r"Expected layer_accuracy=0.95 <= 0.900, the best"):
        choose(accuracy, 0.95)


@pytest.mark.slow
def test_an_image_without_numbers_is_no_class_s_response():
    """The argmax of scores that are none is their first class."""
    config = REGroup(network=CNNConfig(widths=(4, 4), strides=(2, 1)), num_layers=2)
    method = config.make(Task((8, 8, 1), 3, 100))
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (24, 8, 8, 1))
    surrogate = jax.jit(method.views["surrogate"])
    head = variables["params"]["backbone"]["linear"]
    head["bias"] = head["bias"] - jnp.mean(surrogate(variables, images, key=None), axis=0)
    labels = jnp.argmax(surrogate(variables, images, key=None), -1)  # of all classes

    def fitted(images, labels):
        batch = Batch(images, labels, jnp.ones(len(images), bool), jnp.arange(len(images)))
        return method.fit(variables, [batch], key=jax.random.key(0))

    broken = images.at[5].set(jnp.nan)
    found = fitted(broken, labels.at[5].set(0))
    expected = fitted(jnp.delete(images, 5, axis=0), jnp.delete(labels, 5))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)
