"""Networks whose outputs are bounded in the tests."""

import jax
import numpy as np
import pytest

from robust_jax.models import Classifier, NetworkConfig, Normalization, default_layers


@pytest.fixture(scope="session")
def random_network():
    """Makes the logits function of a network with random weights and fitting batch statistics."""

    def make(network: NetworkConfig, shape: tuple[int, int, int], num_classes: int = 10):
        normalization = Normalization((0.5,) * shape[-1], (0.25,) * shape[-1])
        classifier = Classifier(network.make(num_classes, default_layers()), normalization)

        @jax.jit
        def variables_of(key):
            keys = jax.random.split(key, 3)
            # Of all contrasts: like images would make BatchNorm divide by next to nothing.
            contrast = jax.random.uniform(keys[0], (32, 1, 1, shape[-1]))
            images = contrast * jax.random.uniform(keys[1], (32, *shape))
            start = classifier.init(keys[2], images, train=False, deterministic=True)
            mode = {"train": True, "deterministic": True, "mutable": ["batch_stats"]}
            moved = classifier.apply(start, images, **mode)[1]["batch_stats"]
            # The running averages moved by a tenth of the way to the batch's.
            statistics = jax.tree.map(lambda a, b: 10 * b - 9 * a, start["batch_stats"], moved)
            return {**start, "batch_stats": statistics}

        def logits(variables, images):
            return classifier.apply(variables, images, train=False, deterministic=True).logits

        return jax.tree_util.Partial(logits, variables_of(jax.random.key(0)))

    return make


@pytest.fixture(scope="session")
def near():
    """Makes images within eps of one: half of them corners, half of them uniform inside."""

    def make(image, eps: float, num_samples: int):
        draws = np.random.default_rng(0).uniform(-1, 1, (num_samples, *image.shape))
        draws[::2] = np.sign(draws[::2])
        return (image[None] + eps * draws).astype(np.float32)

    return make
