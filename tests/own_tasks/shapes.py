"""Segmentation of the user's own: discs and squares on noise, a network that gives a table, mean IoU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning_bootcamp.tasks import Classification, Metric
from pruning_bootcamp.tools.datasets import ImageSplit, Splits

KINDS = ("background", "disc", "square")


class Segmentation(Classification):
    """A class for each pixel, judged by the mean over the classes of intersection over union."""

    metric = Metric("mean_iou")
    noun = "images"

    def outputs(self, given: dict[str, Tensor]) -> Tensor:
        return given["out"]

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Intersections, then unions, in pixels, class by class."""
        chosen, classes = self.decisions(outputs), range(outputs.shape[1])
        both = [((chosen == one) & (targets == one)).sum() for one in classes]
        either = [((chosen == one) | (targets == one)).sum() for one in classes]
        return torch.stack([*both, *either]).float()

    def score(self, sums: Sequence[float], samples: int) -> float:
        half = len(sums) // 2
        shares = [both / either for both, either in zip(sums[:half], sums[half:], strict=True) if either]
        return 100 * sum(shares) / len(shares)


def shapes(*, count: int = 240, size: int = 16) -> Splits:
    """Images uint8 [n, 1, size, size], and a class for each of their pixels."""
    generator = torch.Generator().manual_seed(7)
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = torch.randint(90, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(count, size, size, dtype=torch.long)
    for image, mask in zip(images, masks, strict=True):
        y, x, r = (int(torch.randint(low, size - low, (), generator=generator)) for low in (4, 4, 6))
        radius = 2 + r % 3
        kind = 1 + r % 2
        inside = (ys - y) ** 2 + (xs - x) ** 2 <= radius**2
        if kind == 2:
            inside = ((ys - y).abs() <= radius) & ((xs - x).abs() <= radius)
        mask[inside] = kind
        image[0][inside] += 120
    parts = (slice(0, count * 2 // 3), slice(count * 2 // 3, count * 5 // 6), slice(count * 5 // 6, count))
    train, val, test = (ImageSplit(images[part], masks[part]) for part in parts)
    return Splits("shapes", train, val, test, KINDS, (1, size, size), mean=(0.25,), std=(0.2,))


class Net(nn.Module):
    """Two scales, and a table of two outputs, as torchvision's segmentation networks give."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.head = nn.Conv2d(16, classes, 3, padding=1)
        self.auxiliary = nn.Conv2d(24, classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        down = self.down(first)
        return {"out": self.head(torch.relu(first + self.up(down))), "aux": self.auxiliary(down)}


def build(*, classes: int, in_channels: int) -> nn.Module:
    return Net(classes, in_channels)
