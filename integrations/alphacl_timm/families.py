"""Which stem each family of timm models gets for small images: the table ``FAMILIES``, one row per family, and why.

To find a model's row, look for its module in ``timm.models``: ``regnety_002`` is made in ``timm.models.regnet``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Undo:
    """Downsampling is undone: strided convolutions get a smaller stride, pooling goes (`alphacl_timm.stems.undo`).

    Args:
        factor: largest image side in px -> the number by which the total downsampling is divided; sides ascending.
            Above the largest side its factor holds too, but only if the small stem is asked for.
        last: undo the last downsampling, not the first.
    """

    factor: dict[int, int]
    last: bool = False

    def factor_at(self, image_size: int) -> int:
        """The factor for images of this side."""
        return next((factor for side, factor in self.factor.items() if image_size <= side), [*self.factor.values()][-1])


@dataclass(frozen=True)
class Patches:
    """Patches are smaller: their side is the image's divided by ``count``, or the next smaller one that divides it.

    Args:
        count: patches along a side of the image.
        largest: largest side of a small patch, in px.
        windowed: side in px of the model's own patches if it attends within windows, whose side then becomes an eighth
            of the map's, as 7 of 56 at 224 px.
    """

    count: int
    largest: int
    windowed: int | None = None

    def side_at(self, image_size: int) -> int:
        """The side of a patch in images of this side."""
        wanted = min(-(-image_size // self.count), self.largest)
        return next(side for side in range(wanted, 0, -1) if image_size % side == 0)


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Args:
        title: the models as people call them.
        modules: where in ``timm.models`` they are made.
        small: their small stem; None: they have none.
        why: the reason, a clause without a full stop.
    """

    title: str
    modules: tuple[str, ...]
    small: Undo | Patches | None
    why: str


FIRST_HALVINGS = {32: 4, 64: 2}
"""The first two halvings are undone up to 32 px, the first one up to 64 px: either ends as a map of 4x4."""

FAMILIES = (
    Family(
        "ResNet (also -D, ResNeXt, wide, SE, ECA, SK), Res2Net, ResNeSt",
        ("resnet", "res2net", "resnest", "sknet"),
        Undo({64: 4}),
        "the usual CIFAR form: stem 3x3 stride 1, no pooling",
    ),
    Family(
        "RegNet",
        ("regnet",),
        Undo(FIRST_HALVINGS),
        "it halves in the stem and in the first stage, where a ResNet has stem and pooling",
    ),
    Family(
        "EfficientNet, MobileNet, MNASNet, LCNet, GhostNet",
        ("efficientnet", "mobilenetv3", "hardcorenas", "lcnetv2", "ghostnet", "repghost"),
        Undo(FIRST_HALVINGS),
        "it halves in the stem and in an early stage, where a ResNet has stem and pooling",
    ),
    Family(
        "ConvNeXt",
        ("convnext",),
        Undo(FIRST_HALVINGS),
        "the stem's 4x4 patches overlap, with stride 1 up to 32 px and 2 up to 64 px, so its kernel can stay",
    ),
    Family(
        "VGG",
        ("vgg",),
        Undo(FIRST_HALVINGS, last=True),
        "the last pooling goes, up to 32 px the last two: the early layers are wide and would cost 16 times as much",
    ),
    Family(
        "ResNeXt-TS, GC-ResNet, RepVGG, MobileOne, RegNet-Z",
        ("byobnet",),
        Undo(FIRST_HALVINGS),
        "it halves in the stem and in a pooling or early stage, as a ResNet does",
    ),
    Family(
        "other convolutional networks: DenseNet, ResNetV2, NFNet, CSPNet, DLA, DPN, VoVNet, ReXNet, HRNet, ...",
        (
            *("cspnet", "cspnext", "densenet", "dla", "dpn", "fasternet", "hrnet", "inception_next", "nfnet", "rdnet"),
            *("repvit", "resnetv2", "rexnet", "senet", "starnet", "vovnet", "xception", "xception_aligned"),
        ),
        Undo(FIRST_HALVINGS),
        "they halve twice before their main stages, as a ResNet does",
    ),
    Family(
        "ViT, DeiT, BEiT, EVA, CaiT, ConViT",
        ("vision_transformer", "vision_transformer_relpos", "deit", "beit", "eva", "cait", "convit"),
        Patches(count=8, largest=8),
        "8x8 patches: 4 px at 32, 8 px at 64",
    ),
    Family(
        "Swin, Swin V2",
        ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
        Patches(count=32, largest=2, windowed=4),
        "32x32 patches, 1 px at 32 and 2 px at 64, are merged to 4x4; windows are 4x4 too",
    ),
    Family(
        "HaloNet, BoTNet, LambdaNet",
        ("byoanet",),
        None,
        "its attention works on blocks or positions of the size that it was designed for",
    ),
    Family("CrossViT", ("crossvit",), None, "it cuts two scales of the image into patches of 12 and 16 px"),
    Family("EfficientFormer", ("efficientformer",), None, "its attention is made for 7x7 positions, that is 224 px"),
    Family(
        "Inception, Inception-ResNet",
        ("inception_v3", "inception_v4", "inception_resnet_v2"),
        None,
        "its convolutions are not padded, so the map ends before 75 px do",
    ),
)


def family_of(module: str) -> Family | None:
    """The row of a module of ``timm.models``; None where there is none."""
    return next((family for family in FAMILIES if module in family.modules), None)
