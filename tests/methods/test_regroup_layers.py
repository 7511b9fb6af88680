"""Which layers of REGroup vote."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax.methods import REGroup
from robust_jax.methods.regroup_fit import choose
from robust_jax.models import WideResNetConfig, default_layers
from robust_jax.models.base import in_network_order


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
