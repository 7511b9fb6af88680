"""What an evaluation says of the models that attacks are transferred from."""

import jax
import numpy as np

from robust_jax.data import from_arrays
from robust_jax.evaluation import Model, descriptions
from robust_jax.methods import Standard
from robust_jax.models import CNNConfig
from robust_jax.types import Task

SPLIT = from_arrays(np.zeros((4, 4, 4, 1), np.float32), np.arange(4) % 2, num_classes=2)
NETWORK = CNNConfig(widths=(2,), strides=(1,))


def of_checkpoint(seed, name="near"):
    """Returns a trained model, as a checkpoint has it."""
    task = Task((4, 4, 1), 2, 4)
    config = Standard(NETWORK)
    method = config.make(task)
    variables = method.init(key=jax.random.key(seed))
    return Model(name=name, method=method, variables=variables, num_classes=2, config=config)


def of_function(slope):
    return Model.of(lambda images: slope * images.reshape(len(images), -1)[:, :2], num_classes=2)


def networks(**sources):
    return descriptions.networks(descriptions.of_sources(sources, SPLIT))


def test_a_checkpoint_is_known_by_its_weights():
    first, again, other = (of_checkpoint(seed) for seed in (0, 0, 1))
    found = networks(first=first, again=again, other=other, renamed=of_checkpoint(0, name="far"))
    assert found["first"] == found["again"] == found["renamed"] != found["other"]


def test_one_weight_tells_two_checkpoints_apart():
    model = of_checkpoint(0)
    leaves, tree = jax.tree.flatten(model.variables)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].add(1e-3)
    other = model._replace(variables=jax.tree.unflatten(tree, leaves))
    assert networks(near=model) != networks(near=other)


def test_a_function_is_known_by_what_it_answers():
    first, again, other = (of_function(slope) for slope in (1.0, 1.0, 1.01))
    found = networks(first=first, again=again, other=other)
    assert found["first"] == found["again"] != found["other"]
