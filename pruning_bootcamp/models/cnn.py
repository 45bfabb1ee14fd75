"""The CIFAR networks of the pruning papers: ResNet-20 to ResNet-110, ResNet-18 with a 3x3 stem, VGG-BN."""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.models.catalog import MODELS
from pruning_bootcamp.models.shortcuts import PadShortcut, fixed_convolution, padded_shortcuts, replace_shortcuts
from pruning_bootcamp.plain import Plain


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without learned weights."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Literal["A", "conv"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            padded = PadShortcut(in_channels, channels, stride)
            self.shortcut = padded if shortcut == "A" else fixed_convolution(padded)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] -> [n, channels, h / stride, w / stride], rounded up."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for small images (He et al., 2016, section 4.2): three stages of 16, 32 and 64 channels.

    Module names are those of the widely used published checkpoints (Y. Idelbayev, pytorch_resnet_cifar10).
    """

    def __init__(self, depth: int, classes: int, in_channels: int, shortcut: Literal["A", "conv"]) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        assert rest == 0, f"a CIFAR ResNet has 6n + 2 layers, not {depth}"
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1, shortcut)
        self.layer2 = self._stage(blocks, 16, 32, 2, shortcut)
        self.layer3 = self._stage(blocks, 32, 64, 2, shortcut)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad:
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(
        blocks: int, in_channels: int, channels: int, stride: int, shortcut: Literal["A", "conv"]
    ) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, in_channels, h, w] of any size -> logits [n, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _register_cifar_resnet(depth: int, size: str) -> None:
    def build(*, classes: int, in_channels: int = 3, shortcut: Literal["A", "conv"] = "A") -> CifarResNet:
        return CifarResNet(depth, classes, in_channels, shortcut)

    build.__name__ = f"cifar_resnet{depth}"
    build.__doc__ = f"""ResNet-{depth} for small images (He et al., 2016): {size} at 32x32 with 10 classes.

    `shortcut="A"` is the paper's option A (every second pixel, new channels zero); "conv" computes the same by a frozen
    1x1 convolution, which a channel pruner can cut.
    """
    MODELS.register(f"cifar_resnet{depth}")(build)


_register_cifar_resnet(20, "0.27 M parameters, 0.041 G multiply-accumulates")
_register_cifar_resnet(32, "0.46 M parameters, 0.069 G multiply-accumulates")
_register_cifar_resnet(44, "0.66 M parameters, 0.097 G multiply-accumulates")
_register_cifar_resnet(56, "0.85 M parameters, 0.125 G multiply-accumulates")
_register_cifar_resnet(110, "1.73 M parameters, 0.253 G multiply-accumulates")


def make_prunable(model: nn.Module, args: Mapping[str, Plain]) -> tuple[nn.Module, dict[str, Plain]]:
    """The same function as a network whose every shortcut can be cut, and the arguments that build it.

    A copy with each option A shortcut replaced by its fixed convolution; the model and arguments as they are when there
    is none. Inside somebody else's network the arguments stay: a checkpoint notes the replaced shortcuts itself.
    """
    paths = list(padded_shortcuts(model))
    if not paths:
        return model, dict(args)
    prunable = copy.deepcopy(model)
    replace_shortcuts(prunable, paths)
    return prunable, {**args, "shortcut": "conv"} if isinstance(model, CifarResNet) else dict(args)


@MODELS.register("cifar_resnet18")
def cifar_resnet18(*, classes: int, in_channels: int = 3) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pooling: 11.17 M parameters, 0.56 G multiply-accumulates at 32x32.

    torchvision's network and parameter names, but for the stem.
    """
    import torchvision  # here: it takes seconds

    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


# Convolutions per stage; a stage ends in a 2x2 max-pooling (Simonyan & Zisserman, 2015, table 1, D and E).
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_VGG16, _VGG19 = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


class CifarVgg(nn.Module):
    """VGG with batch norm and one linear layer behind the convolutions, as is usual for CIFAR."""

    def __init__(self, stages: tuple[int, ...], classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for convolutions, channels in zip(stages, _VGG_WIDTHS, strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                width = channels
            # ceil_mode, so that one pixel stays one pixel: an 8x8 image has none left to halve after three stages
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, in_channels, h, w] of any size -> logits [n, classes]."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


@MODELS.register("vgg16_bn")
def vgg16_bn(*, classes: int, in_channels: int = 3) -> nn.Module:
    """VGG-16 with batch norm for small images: 14.73 M parameters, 0.31 G multiply-accumulates at 32x32.

    torchvision's network of the same name, for 224x224 images, is `torchvision/vgg16_bn`.
    """
    return CifarVgg(_VGG16, classes, in_channels)


@MODELS.register("vgg19_bn")
def vgg19_bn(*, classes: int, in_channels: int = 3) -> nn.Module:
    """VGG-19 with batch norm for small images: 20.04 M parameters, 0.40 G multiply-accumulates at 32x32.

    torchvision's network of the same name, for 224x224 images, is `torchvision/vgg19_bn`.
    """
    return CifarVgg(_VGG19, classes, in_channels)
