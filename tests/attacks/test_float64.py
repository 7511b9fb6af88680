"""Every attack in float64, in a process of its own: nothing falls back to float32."""

import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from robust_jax.attacks import in_float64

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from robust_jax.attacks import APGD, FGSM, AutoAttack, ThreatModel, bind, in_float64
from tests.attacks import rows

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

def network(weights, images, *, key):
    return images.reshape(len(images), -1) @ weights

key = jax.random.key(0)
images = jax.random.uniform(jax.random.key(1), (6, 8, 8, 1), jnp.float32)
view = bind(network, jax.random.normal(jax.random.key(2), (64, 10), jnp.float32))
labels = jnp.argmax(view(images, key=key), axis=1)
view64, images64 = in_float64((view, images))
assert images.dtype == jnp.float32 and view(images, key=key).dtype == jnp.float32

bounded = {name: rows.bounded(name)() for name in rows.BOUNDED}
for name, attack in (bounded | rows.UNBOUNDED).items():
    for given, dtype in ((images64, jnp.float64), (images, jnp.float32)):
        seen = view64 if dtype == jnp.float64 else view
        found = jax.eval_shape(lambda x: attack(seen, x, labels, key=key), given)
        assert found.dtype == dtype, (name, found.dtype)

threat = ThreatModel("linf", 1e-3)
for attack in (APGD(threat, num_steps=5), FGSM(threat)):
    found = attack(view64, images64, labels, key=key)
    assert found.dtype == jnp.float64
    # In the ball far below float32's rounding.
    assert float(jnp.abs(found - images64).max()) <= 1e-3 * (1 + 1e-12)
suite = AutoAttack(threat, version="custom", attacks=(APGD(threat, num_steps=2),), batch_size=6)
assert suite(view64, images64, labels, key=key).dtype == jnp.float64

def moved(view, images, scale):
    sharp = bind(lambda v, x, *, key: scale * v(x, key=key), view)
    return int(jnp.sum(jnp.any(FGSM(threat)(sharp, images, labels, key=key) != images, (1, 2, 3))))

# Margins of several hundred: softmax is saturated in float32, and in float64 not yet.
logits = jnp.sort(view(images, key=key), axis=1)
scale = 300 / float(jnp.max(logits[:, -1] - logits[:, -2]))
print("moved", moved(view, images, scale), moved(view64, images64, scale))
"""


@pytest.mark.slow
def test_attacks_in_float64(repository):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    float32, float64 = map(int, done.stdout.split()[-2:])
    assert float32 < float64 == 6


def test_another_process_is_an_error():
    with pytest.raises(ValueError, match="start with JAX_ENABLE_X64=1"):
        in_float64(jnp.zeros(2))
