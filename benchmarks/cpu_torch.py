"""PyTorch's side of `cpu.py`, in an interpreter of its own: it needs torch and nothing of ours.

Reads the name of a side a line from standard input, runs it once and answers "done". Networks
and arithmetic are those of the other side; weights are random, as speed does not depend on them.
"""

import sys

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Basic block; a shape is changed by a projection (option B), or by zero channels (A)."""

    def __init__(self, num_in: int, num_out: int, strides: int, option: str):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, strides, 1, bias=False)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(num_out), nn.BatchNorm2d(num_out)
        self.missing = num_out - num_in
        self.projection = None
        if self.missing and option == "B":
            conv = nn.Conv2d(num_in, num_out, 1, strides, bias=False)
            self.projection = nn.Sequential(conv, nn.BatchNorm2d(num_out))

    def forward(self, x):
        """Returns the block's activations."""
        branch = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.projection is not None:
            x = self.projection(x)
        elif self.missing:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *(2 * [self.missing // 2])))
        return functional.relu(branch + x)


def network(widths: tuple[int, ...], num_blocks: int, option: str) -> nn.Module:
    """Returns a residual network for 32 x 32 images and ten classes."""
    layers = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(num_blocks):
            strides = 2 if stage and not block else 1
            layers.append(Block(channels, width, strides, option))
            channels = width
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, 10))


def training_step(batch_size: int, memory_format: torch.memory_format):
    """Returns a call that takes a step of ResNet-18."""
    model = network((64, 128, 256, 512), 2, "B").to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.rand(batch_size, 3, 32, 32).contiguous(memory_format=memory_format)
    labels = torch.arange(batch_size) % 10

    def run():
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def resnet20_pgd(batch_size: int, num_steps: int, memory_format: torch.memory_format):
    """Returns a call that attacks ResNet-20."""
    model = network((16, 32, 64), 3, "A").eval().to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    images = torch.rand(batch_size, 3, 32, 32).contiguous(memory_format=memory_format)
    labels = torch.arange(batch_size) % 10
    return pgd(model, images, labels, eps=8 / 255, step_size=2 / 255, num_steps=num_steps)


def pgd(model, images, labels, *, eps: float, step_size: float, num_steps: int):
    """Returns a call that attacks a network whose parameters ask for no gradient."""

    def run():
        adversarial = (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(num_steps):
            adversarial = adversarial.detach().requires_grad_(True)
            loss = functional.cross_entropy(model(adversarial), labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + step_size * slope.sign() - images
            adversarial = (images + moved.clamp(-eps, eps)).clamp(0, 1)

    return run


def main() -> None:
    """Builds what the arguments ask for and runs it on request."""
    threads, train_size, attack_size, num_steps = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    sides = {}
    for name, layout in (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last)):
        sides[f"step {name}"] = training_step(train_size, layout)
        sides[f"pgd {name}"] = resnet20_pgd(attack_size, num_steps, layout)
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        sides[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    main()
