"""Feature matching: which modules are compared, and how far apart two networks are there."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.models import build_model
from pruning_bootcamp.training.features import FeatureMatch, feature_points


def test_the_points_are_the_blocks() -> None:
    points = feature_points(build_model("cifar_resnet20", classes=10, in_channels=3))
    assert points == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


def test_without_blocks_the_batch_norms_are_compared_and_without_those_nothing() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    assert feature_points(plain) == ["1"]
    assert feature_points(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []


def test_the_distance_is_the_relative_mean_square_times_the_images() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    student = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    images = torch.randn(5, 1, 6, 6)
    match = FeatureMatch(student, teacher)
    with match.watching():
        ours = student(images)
        with torch.no_grad():
            theirs = teacher(images)
        distance = match.distance(len(images))
        assert isinstance(distance, torch.Tensor)
        distance.backward()
    expected = 5 * (ours - theirs).square().mean() / theirs.square().mean()
    assert distance.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student[0].weight.grad is not None
    assert all(not module._forward_hooks for module in [*student.modules(), *teacher.modules()])


def test_a_network_in_evaluation_is_not_remembered_and_other_shapes_do_not_count() -> None:
    teacher, student = (nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)) for width in (4, 2))
    match = FeatureMatch(student, teacher)
    with match.watching():
        student.eval()(torch.randn(2, 1, 5, 5))
        teacher.eval()(torch.randn(2, 1, 5, 5))
        assert match.distance(2) == 0.0
        student.train()(torch.randn(2, 1, 5, 5))
        teacher(torch.randn(2, 1, 5, 5))
        assert match.distance(2) == 0.0
