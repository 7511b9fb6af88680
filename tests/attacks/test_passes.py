"""Passes are counted where they are computed: loops, draws, runs at once, what nobody uses."""

import dataclasses

import jax
import numpy as np
import pytest

from robust_jax.attacks import (
    APGDT,
    PGD,
    DeepFool,
    Square,
    ThreatModel,
    TrustRegion,
    eot,
    passes,
)
from robust_jax.attacks.views import each_alone

KEY = jax.random.key(5)
THREAT = ThreatModel("linf", 0.14)
QUICK = PGD(THREAT, num_steps=3)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("attack", "forward", "backward"),
    [
        (QUICK, 4, 3),
        (dataclasses.replace(QUICK, keep="last"), 3, 3),  # nobody judges the end of one run
        (dataclasses.replace(QUICK, num_restarts=2, parallel=True), 8, 6),
        # Targets are ranked once; the start is a point of the path.
        pytest.param(APGDT(THREAT, num_steps=4, num_targets=2), 11, 10, marks=pytest.mark.slow),
    ],
    ids=["best", "last", "parallel", "targets"],
)
def test_of_a_plan(attack, forward, backward, digits):
    images, found = attack.counted(*digits, key=KEY)
    assert found.forward.tolist() == 16 * [forward]
    assert found.backward.tolist() == 16 * [backward]
    # Two programs, of which XLA may fuse products otherwise: the last bit.
    np.testing.assert_allclose(images, attack(*digits, key=KEY), rtol=2.5e-7)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [pytest.param(False, marks=pytest.mark.slow), True])
def test_each_draw_is_a_pass_and_those_of_a_gradient_are_made_twice(digits, parallel):
    def noisy(images, *, key):
        return digits.view(images + 0.01 * jax.random.normal(key, images.shape), key=None)

    draws = eot(noisy, 5, parallel=parallel)
    found = QUICK.counted(draws, digits.images, digits.labels, key=KEY)[1]
    # To spare memory the draws of a gradient are computed again on the way back.
    assert found.forward[0] == 5 * (3 * 2 + 1)
    assert found.backward[0] == 5 * 3
    if not parallel:
        alone = each_alone(draws, key=KEY)
        counted = QUICK.counted(alone, digits.images, digits.labels, key=KEY)[1]
        assert counted.forward.tolist() == found.forward.tolist()
        assert counted.backward.tolist() == found.backward.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("attack", [DeepFool(num_steps=3), TrustRegion(num_steps=3)])
def test_attacks_that_walk_to_the_boundary_of_a_mean(digits, attack):
    """What a loop does not ask of its draws has no outputs: there is nothing to count there."""

    def noisy(images, *, key):
        return digits.view(images + 0.01 * jax.random.normal(key, images.shape), key=None)

    one, four = (
        attack.counted(eot(noisy, draws), digits.images, digits.labels, key=KEY)[1]
        for draws in (1, 4)
    )
    assert four.backward.tolist() == [4 * backward for backward in one.backward.tolist()]


def test_a_gradient_alone_is_both_passes(digits):
    def gradient(view, images):
        return jax.grad(lambda images: view(images, key=KEY)[:, 0].sum())(images)

    count = jax.jit(passes.counted(gradient, digits.images))
    found = count(passes.marked(digits.view), digits.images)[1]
    assert (found.forward[0], found.backward[0]) == (1, 1)


@pytest.mark.slow
def test_a_loop_counts_as_it_ran(digits):
    attack = Square(ThreatModel("linf", 0.6), num_queries=50)
    alone = [
        int(attack.counted(digits.view, digits.images[i : i + 1], digits.labels[i : i + 1],
                           key=KEY, index=[i])[1].forward[0])
        for i in range(4)
    ]  # fmt: skip
    four = digits.images[:4], digits.labels[:4]
    together = attack.counted(digits.view, *four, key=KEY)[1]
    assert len(set(alone)) > 1
    assert together.forward.tolist() == 4 * [max(alone)]
    assert together.backward.tolist() == 4 * [0]


def test_a_view_in_what_is_not_known_is_refused(digits):
    def count(images):
        view = passes.marked(digits.view)
        return jax.lax.while_loop(lambda x: view(x, key=KEY).sum() < -1e9, lambda x: x + 1, images)

    with pytest.raises(ValueError, match="in the condition of a loop"):
        jax.jit(passes.counted(count, digits.images))(digits.images)
