"""What benchmarks/scaling.py counts: gradients and BatchNorm's sums, and nothing else."""

import pytest

from benchmarks import scaling
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding


@pytest.mark.slow
def test_a_step_exchanges_gradients_and_batch_statistics():
    network = CNNConfig(widths=(8, 16), strides=(2, 2))
    found = scaling.exchanged(network, sharding.make_mesh(4), local_batch=2)
    assert found.params == 4 * (3 * 3 * (3 * 8 + 8 * 16) + 2 * (8 + 16) + 17 * 10)
    others = {kind: count for kind, count in found.num_bytes.items() if kind != "all-reduce"}
    assert not any(others.values())  # no array is gathered: only sums travel
    # Beside the gradients: sums of values and squares of each norm; loss and accuracy, of 4 bytes
    # each; and what a norm's backward pass sums apart from its scale's and bias's gradients, which
    # is how automatic differentiation happens to write it: at most as much as forward.
    rest = found.num_bytes["all-reduce"] - found.params - found.statistics
    assert 8 <= rest <= found.statistics + 8
    one = scaling.exchanged(network, sharding.make_mesh(1), local_batch=2)
    assert not any(one.num_bytes.values())


def test_collectives_of_a_program():
    program = """
  %a.1 = f32[2,3]{1,0} all-reduce(%x), channel_id=1
  %b = (f32[4]{0}, bf16[5]{0}) all-reduce-start(%y, %z), channel_id=2
  %c = (f32[4]{0}, bf16[5]{0}) all-reduce-done(%b)
  %d = f32[8]{0} all-gather(%w), dimensions={0}
  %e = f32[] get-tuple-element(%b), index=0
"""
    num_bytes, num_calls = scaling.collectives(program)
    assert num_bytes["all-reduce"] == 24 + 16 + 10
    assert num_calls["all-reduce"] == 2
    assert (num_bytes["all-gather"], num_calls["all-gather"]) == (32, 1)


def test_weak_scaling_by_hand():
    links = scaling.Links("", num_devices=8, bandwidth=1e9, latency=1e-4)
    found = scaling.estimate(step_seconds=0.1, num_bytes=4e7, num_waits=50, links=links)
    assert found.ring == pytest.approx(0.07)  # 2 * 7 / 8 * .04
    assert found.waits == pytest.approx(0.005)
    assert found.exposed == pytest.approx(0.1 / 0.175)
    assert found.hidden == pytest.approx(0.1 / 0.105)
