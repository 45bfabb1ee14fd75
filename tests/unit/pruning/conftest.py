"""Small networks, each with one thing that makes cutting channels hard."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

EXAMPLE = (2, 3, 8, 8)


class Residual(nn.Module):
    """A projection that learns, and a frozen one of zeros and ones (an option A shortcut as a convolution)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.shortcut = nn.Conv2d(8, 16, 1, stride=2, bias=False)
        self.shortcut.weight = nn.Parameter(torch.eye(16, 8)[:, :, None, None].clone(), requires_grad=False)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        x = (y + self.shortcut(x)).relu()
        x = (x + self.bn3(self.conv3(x))).relu()
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenations: batch norms and convolutions which read channels of several layers, at offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.bn_a = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 4, 3, padding=1)
        self.bn_ab = nn.BatchNorm2d(10)
        self.c = nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.bn_a(self.a(x)).relu()
        both = self.bn_ab(torch.cat([a, self.b(a)], 1)).relu()
        return self.head(torch.cat([self.c(both).relu(), both], 1).amax((2, 3)))


class Mobile(nn.Module):
    """Depthwise convolution with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.bn = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.depthwise(nn.functional.relu6(self.bn(self.expand(x)))))
        scale = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(self.project(x * scale).flatten(2).mean(2))


class Next(nn.Module):
    """Layer norms, permutations and a layer scale so small that its branch hardly shows (as in ConvNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.down(nn.functional.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.head(self.last(x.mean((2, 3))))


def plain() -> nn.Module:
    """Convolutions, then linear layers after a flatten."""
    features = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3)]
    return nn.Sequential(*features, nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 5))


def grouped() -> nn.Module:
    """A convolution in blocks, and a norm over blocks."""
    parts = [nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, groups=4), nn.GroupNorm(2, 16)]
    return nn.Sequential(*parts, nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def transposed() -> nn.Module:
    """Transposed convolutions, an instance norm with running statistics, a PReLU with a slope a channel."""
    first = [nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.PReLU(6)]
    last = [nn.ConvTranspose2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, stride=2)]
    return nn.Sequential(*first, *last)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": Residual,
    "dense": Dense,
    "mobile": Mobile,
    "grouped": grouped,
    "next": Next,
    "transposed": transposed,
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the networks in turn, in training mode."""
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.fixture
def make_network() -> Callable[[str], nn.Module]:
    """A network by name."""
    torch.manual_seed(0)
    return lambda name: NETWORKS[name]()


@pytest.fixture
def example() -> Tensor:
    return torch.zeros(EXAMPLE)
