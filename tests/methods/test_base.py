"""What every method starts from: the view through skip connections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import KAP, Standard
from robust_jax.models import CNNConfig, EnsembleConfig, PreActResNetConfig, ResNetConfig
from robust_jax.types import Task

TASK = Task((8, 8, 3), 10, 100)
RESNET = ResNetConfig(depth=20, widths=(9, 9), blocks=(1, 2))
IMAGES = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3))


@pytest.mark.parametrize(
    "config",
    [Standard(network=EnsembleConfig(RESNET, 2)), KAP(network=RESNET, sigma=0.2)],
    ids=["ensemble", "kap"],
)
def test_skip_gradient_is_the_deployed_view_with_another_gradient(config):
    method = config.make(TASK)
    variables, key = method.init(key=jax.random.key(1)), jax.random.key(2)

    @jax.jit
    def both(variables, images):
        def total(images, name):
            logits = method.views[name](variables, images, key=key)
            return jnp.sum(logits[:, 0]), logits

        return [
            jax.value_and_grad(total, has_aux=True)(images, name)
            for name in ("deployed", "skip_gradient")
        ]

    ((_, logits), slope), ((_, same), other) = both(variables, IMAGES)
    np.testing.assert_allclose(same, logits, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(slope - other).max()) > 0.1 * float(jnp.abs(slope).max())


def test_skip_gradient_is_there_where_there_are_skips():
    assert "skip_gradient" in Standard(network=PreActResNetConfig()).make(TASK).views
    for network in (CNNConfig(), EnsembleConfig(CNNConfig(), 2)):
        assert "skip_gradient" not in Standard(network=network).make(TASK).views
