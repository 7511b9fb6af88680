"""A PyTorch module through the bridge: a pass, a gradient and PGD, beside PyTorch's own.

    python benchmarks/torch_bridge.py [--batch 64] [--repeats 5]

The module is a ResNet-20 of random weights. All runs of a row take turns, so that what else the
machine does is shared; the medians and their ratio are printed.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import hardware, interleaved
from torch_resnet import TorchResNet, channel_first, torch_pgd

from robust_jax.attacks import PGD, ThreatModel, as_view
from robust_jax.evaluation import Model
from robust_jax.models import Normalization, ResNetConfig

EPS, STEP_SIZE, NUM_STEPS = 8 / 255, 2 / 255, 20


def main(batch: int, repeats: int) -> None:
    """Prints a line for each of the three."""
    torch.manual_seed(0)
    module = TorchResNet(ResNetConfig(depth=20), Normalization()).eval()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(batch, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, batch))
    given, classes = channel_first(images), torch.from_numpy(np.array(labels)).long()
    model = Model.of(module, num_classes=10)

    def logits(images: jax.Array) -> jax.Array:
        return model.method.predict(model.variables, images, key=None)

    def loss(images: jax.Array) -> jax.Array:
        scores = logits(images)
        chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)
        return jnp.sum(jax.nn.logsumexp(scores, axis=1) - chosen[:, 0])

    attack = PGD(ThreatModel("linf", EPS), num_steps=NUM_STEPS, step_size=STEP_SIZE)
    through = {
        "a pass": jax.jit(logits),
        "a gradient": jax.jit(jax.grad(loss)),
        f"PGD-{NUM_STEPS}": lambda images: attack(
            as_view(logits), images, labels, key=jax.random.key(0)
        ),
    }

    def own_pass() -> None:
        with torch.no_grad():
            module(given)

    def own_gradient() -> None:
        leaf = given.clone().requires_grad_()
        total = torch.nn.functional.cross_entropy(module(leaf), classes, reduction="sum")
        torch.autograd.grad(total, leaf)  # of the weights nobody asks

    def own_pgd() -> None:
        torch_pgd(module, given, classes, eps=EPS, step_size=STEP_SIZE, num_steps=NUM_STEPS)

    own = dict(zip(through, (own_pass, own_gradient, own_pgd), strict=True))
    print(hardware())
    print(f"ResNet-20, {batch} images, {torch.get_num_threads()} threads of PyTorch")
    for name, function in through.items():
        sides = {"bridge": lambda f=function: f(images), "PyTorch": own[name]}
        bridge, alone = interleaved(sides, repeats=repeats).values()
        print(f"{name:12} bridge {bridge:7.3f} s, PyTorch {alone:7.3f} s, {bridge / alone:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    main(**vars(parser.parse_args()))
