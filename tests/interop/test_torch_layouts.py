"""torchvision's and the common CIFAR layouts: logits as PyTorch's modules of random weights."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation, experiment
from robust_jax.attacks import FGSM, ThreatModel
from robust_jax.data import TFDS
from robust_jax.evaluation import AttackRun, Evaluation, Model
from robust_jax.experiment import checkpoints
from robust_jax.interop import torch as importer
from robust_jax.interop.architectures import ARCHITECTURES
from robust_jax.models import Classifier, VGGConfig, default_layers
from robust_jax.runtime import command_line, sharding

torch = pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
nn = torch.nn
from tests.interop.torch_modules import randomised  # noqa: E402 - needs it


class Block(nn.Module):
    """Basic block or bottleneck; `projection` is the layout's name of the shortcut."""

    def __init__(self, channels, width, stride, bottleneck, projection):
        super().__init__()
        plan = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            plan = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        inputs, self.num, self.projection = channels, len(plan), projection
        for i, (outputs, size, step) in enumerate(plan, 1):
            conv = nn.Conv2d(inputs, outputs, size, step, size // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(outputs))
            inputs = outputs
        shortcut = nn.Identity()
        if stride != 1 or channels != inputs:
            shortcut = nn.Sequential(
                nn.Conv2d(channels, inputs, 1, stride, bias=False), nn.BatchNorm2d(inputs)
            )
        setattr(self, projection, shortcut)

    def forward(self, x):
        y = x
        for i in range(1, self.num + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.num else y
        return torch.relu(y + getattr(self, self.projection)(x))


class ResNet(nn.Module):
    """torchvision's ResNet ("downsample", "fc") or the common CIFAR one ("shortcut", "linear")."""

    def __init__(self, blocks, bottleneck, projection, head, num_classes):
        super().__init__()
        imagenet = projection == "downsample"
        self.conv1 = nn.Conv2d(
            3, 64, 7 if imagenet else 3, 2 if imagenet else 1, 3 if imagenet else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        channels, self.head = 64, head
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True), 1):
            layers = []
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                layers.append(Block(channels, width, stride, bottleneck, projection))
                channels = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        setattr(self, head, nn.Linear(channels, num_classes))

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class VGG(nn.Module):
    """The layouts' VGG: `features`, adaptive pooling, `classifier`."""

    def __init__(self, network, classifier, num_classes):
        super().__init__()
        layers, channels, conv = [], 3, 0
        for width, count in zip(network.widths, (2, 2, 4, 4, 4), strict=True):
            for _ in range(count):
                conv += 1
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if network.norm else []
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(network.positions)
        sizes = [channels * network.positions**2, *network.hidden, num_classes]
        linear = iter([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
        kinds = {"L": lambda: next(linear), "R": nn.ReLU, "D": nn.Dropout}
        modules = [kinds[kind]() for kind in classifier]
        self.classifier = modules[0] if classifier == "L" else nn.Sequential(*modules)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


def check(module, architecture, size):
    images = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
    network, normalization, variables = importer.import_state_dict(
        {name: value.numpy() for name, value in randomised(module).state_dict().items()},
        architecture,
    )
    task = ARCHITECTURES[architecture].task
    classifier = Classifier(network.make(task.num_classes, default_layers()), normalization)

    @jax.jit
    def logits(variables, images):
        return classifier.apply(variables, images, train=False, deterministic=True).logits

    found = logits(variables, jnp.asarray(images))
    assert normalization is not None
    images = (images - np.float32(normalization.mean)) / np.float32(normalization.std)
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("architecture", "arguments", "size"),
    [
        pytest.param(
            "resnet50_torchvision",
            ((3, 4, 6, 3), True, "downsample", "fc", 1000),
            64,
            marks=pytest.mark.slow,
        ),
        ("resnet18_pytorch_cifar", ((2, 2, 2, 2), False, "shortcut", "linear", 10), 32),
    ],
)
def test_resnets(architecture, arguments, size):
    torch.manual_seed(0)
    check(ResNet(*arguments), architecture, size)


VGG19_LAYOUTS = {
    "vgg19_torchvision": ("LRDLRDL", 1000),
    "vgg19_bn_torchvision": ("LRDLRDL", 1000),
    "vgg19_pytorch_cifar": ("L", 10),
    "vgg19_cifar_hidden": ("DLRDLRL", 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", VGG19_LAYOUTS)
def test_vggs(architecture, monkeypatch):
    """The layouts of the public files, in narrow networks: theirs have up to 144 M parameters."""
    classifier, num_classes = VGG19_LAYOUTS[architecture]
    design = ARCHITECTURES[architecture]
    narrow = VGGConfig(
        19,
        norm=design.member.norm,
        widths=(4, 6, 6, 8, 8),
        hidden=tuple(12 for _ in design.member.hidden),
        positions=design.member.positions,
    )
    monkeypatch.setitem(ARCHITECTURES, architecture, design._replace(member=narrow))
    torch.manual_seed(0)
    check(
        VGG(narrow, classifier, num_classes), architecture, 224 if "vision" in architecture else 32
    )


@pytest.mark.nightly
def test_a_network_is_judged_alike_whichever_way_it_comes(tmp_path, tfds_dir):
    """As an import, as PyTorch's module through the bridge, and as a function."""
    wheel = pytest.importorskip("pyautoattack", reason="needs pyautoattack (.[parity])")
    file = pathlib.Path(wheel.__file__).parent / "examples" / "model_test.pt"
    words = [str(file), "--architecture", "resnet18_cifar", "--out", str(tmp_path / "run")]
    words += ["--mean", "0", "0", "0", "--std", "1", "1", "1"]  # of images in [0, 1]
    importer.main(command_line.parse(importer.Arguments, args=words, positional="files"))
    imported = experiment.as_model(checkpoints.load(tmp_path / "run", sharding.make_mesh(1)))
    module = ResNet((2, 2, 2, 2), False, "shortcut", "linear", 10)
    module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    predict = imported.method.predict
    ways = {
        "imported": imported,
        "bridge": Model.of(module, num_classes=10),
        "function": Model.of(
            lambda images: predict(imported.variables, images, key=None), num_classes=10
        ),
    }
    test = TFDS("cifar10", data_dir=str(tfds_dir)).load().test
    given = tuple(map(np.stack, zip(*(test[row] for row in range(64)), strict=True)))
    attacks = {"fgsm": AttackRun(FGSM(ThreatModel("linf", 1 / 255)))}
    wanted = Evaluation(attacks, batch_size=64, sanity=False, measures={})
    found = {
        name: evaluation.run(model, given, wanted, mesh=sharding.make_mesh(1)).records
        for name, model in ways.items()
    }
    decided = {name: [one.headline().prediction for one in records["clean"].values()]
               for name, records in found.items()}  # fmt: skip
    assert decided["bridge"] == decided["function"] == decided["imported"]
    # Attacked pixels of a gradient about zero go to another side each, so that what is wrong may
    # be so in favour of another class.
    stands = {name: [one.headline().correct for one in records["fgsm"].values()]
              for name, records in found.items()}  # fmt: skip
    assert stands["bridge"] == stands["function"] == stands["imported"]
    assert 0 < sum(stands["imported"]) < 64
