"""What attacks are given beside images and labels: classes to reach, images to begin at."""

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from robust_jax import rng
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.measures.base import NUM_STARTS
from robust_jax.runtime.sharding import replicated
from robust_jax.types import Batch, View


def random_targets(view: View, batch: Batch, seed: int) -> Int[Array, " b"]:
    """Returns for each image a class other than its label, the same in every attack."""
    key = rng.stream(jax.random.key(seed), "targets")
    num_classes = jax.eval_shape(lambda i: view(i, key=key), batch.image).shape[-1]
    return rng.other_classes(key, batch.label, batch.index, num_classes)


def images_to_begin_at(split: Split, mesh: Mesh, seed: int) -> Array:
    """Returns clean images of a split, drawn by the seed alone: the same for every attack."""
    key = rng.stream(jax.random.key(seed), "starts")
    rows = np.asarray(jax.random.permutation(key, len(split)), np.int32)[:NUM_STARTS]
    (batch,) = eval_batches(split, len(rows), np.sort(rows), None)
    return jax.device_put(np.asarray(batch.image), replicated(mesh))
