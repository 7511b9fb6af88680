"""REGroup on ImageNet: the public ResNet-50 and VGG-19 of torchvision, not trained further.

    python -m robust_jax.interop.torch resnet50-19c8e357.pth --architecture resnet50_torchvision \
        --out runs/resnet50_torchvision
    python train.py configs/regroup_imagenet.py           # ResNet-50: no steps, fits and evaluates
    python train.py configs/regroup_imagenet.py:vgg19     # vgg19-dcbb9e9d.pth, vgg19_torchvision

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Tiwari et al., "REGroup: Rank-aggregating ensemble of generative classifiers for robust
predictions", arXiv 2006.10679, 2020, fits 50 images of each class and decides by k = 5 layers.
Table 1, ResNet-50 on 50,000 images, top-1 and top-5 (%): clean 76, 93 (softmax) and 66, 86
(REGroup), PGD of eps 16/255 on the softmax network 0, 0 and 22, 65. Table 2, top-1 on 10,000 images
that the network gets right, where those count alone that fooled it: ResNet-50 (VGG-19) clean 88
(76), PGD 48 (46), DeepFool 61 (55), C&W 40 (38), trust region 41 (45), boundary 50 (50), spatial
36 (30); softmax 0 by construction. Table 3, targeted, 2,000 images: PGD 47 (31), C&W 46 (38). Table
4, at a confidence of .9 and any eps: PGD 21 (19), targeted 23 (17). Table
5, SPSA of 4/255 and 8/255: 71, 70 (64, 63). Table 6, seconds of one image on a GTX 1080 and on an
i7-8700: softmax .02, .06 (VGG-19 .03, .12), REGroup .13, .35 (.16, .64).

`all_layers` and `vgg19_all_layers` let every layer vote (54: 53 convolutions, four of them
projections, and the head; 19: 16 and 3), for the curves over k of figures 4 and 6; in figure 3 k is
5, which is `default` and `vgg19`.

Table 1's other rows are cited there from their papers (top-1 and top-5, clean, then under that
PGD), and none of them is trained here: Inception v3 78, 94, 0.7, 4.4, adversarially trained
(Kurakin et al., 2016) 78, 94, 1.5, 5.5; ResNet-152 79, 94, adversarially trained (Xie et al., 2019)
63 clean, with denoising 66; ResNet-50 with BaRT (Raff et al., 2019) k = 5 65, 85, 16, 51, k = 10
65, 85, 36, 57.

Ours: not yet run (the images are not public).
"""

import dataclasses

from robust_jax.data import TFDS, DataConfig
from robust_jax.experiment.config import Config
from robust_jax.methods import REGroup
from robust_jax.models import NetworkConfig, Normalization, ResNetConfig, imagenet_vgg
from robust_jax.training import TrainingConfig

from .eval import regroup as attacks
from .recipes import changes


def config(network: NetworkConfig, source: str, num_layers: int = 5) -> Config:
    """Returns REGroup on a network.

    Args:
        network: architecture.
        source: work directory of the imported network.
        num_layers: k, the last layers that vote.
    """
    return Config(
        name="regroup_imagenet",
        data=DataConfig(
            TFDS("imagenet2012"), validation_size=10_000, image_size=224, resize_to=256
        ),
        method=REGroup(
            network=network,
            normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            images_per_class=50,
            num_layers=num_layers,
        ),
        training=TrainingConfig(phases=(), init_from=source),
        # The soft count compares every class with every other: small batches.
        evaluation=dataclasses.replace(attacks.get_config(), batch_size=32),
    )


RESNET50 = ResNetConfig(depth=50, stem="imagenet"), "runs/resnet50_torchvision"
VGG19 = imagenet_vgg(19), "runs/vgg19_torchvision"

VARIANTS = {
    "default": config(*RESNET50),
    "vgg19": config(*VGG19),
    "all_layers": config(*RESNET50, num_layers=54),
    "vgg19_all_layers": config(*VGG19, num_layers=19),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "regroup_imagenet", variant)
