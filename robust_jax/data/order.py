"""Host-side randomness of the input pipeline: every draw is a function of its counters alone.

It is read from raw Philox words, whose stream NumPy guarantees; `Generator.permutation` may
change between NumPy releases, and then a resumed run would see other batches.
"""

import zlib

import numpy as np


def _words(seed: int, name: str, high: int, low: int, num_words: int) -> np.ndarray:
    """Returns `num_words` random uint64 words of the stream `name` at (high, low)."""
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    counter = np.array([0, low, high, 0], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(num_words)


def permutation(seed: int, name: str, epoch: int, num_rows: int) -> np.ndarray:
    """Returns the order of the rows [0, num_rows) in an epoch, as int32."""
    order = np.argsort(_words(seed, name, epoch, 0, num_rows), kind="stable")
    return order.astype(np.int32)


def uniforms(seed: int, name: str, epoch: int, row: int, num_draws: int) -> np.ndarray:
    """Returns uniform draws in [0, 1) that belong to one row in one epoch."""
    words = _words(seed, name, epoch, row, num_draws)
    return (words >> np.uint64(11)) * 2.0**-53
