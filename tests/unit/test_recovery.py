"""Recovery without labels: distillation from the dense network."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from pruning_bootcamp.results import Distillation
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.datasets.splits import ImageSplit
from pruning_bootcamp.training.batch_norm import frozen_batch_norm, reestimate_batch_norm
from pruning_bootcamp.training.recovery import distill, first_images
from pruning_bootcamp.training.settings import RecoverSettings


def splits_of_noise(images: int) -> Splits:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> ImageSplit:
        pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        return ImageSplit(pixels, torch.full((count,), -7))  # a label that any use of it would trip over

    names = ("a", "b", "c")
    return Splits("noise", split(images), split(16), split(16), names, (1, 8, 8), (0.5,), (0.25,), ())


def small_network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def distilled(student: nn.Module, dense: nn.Module, folder: Path | None, **settings: Any) -> Distillation:
    masks = {"4.weight": student[4].weight.detach().abs() > 0.03}  # type: ignore[index]
    chosen = RecoverSettings(images=96, batch_size=32, lr=0.05, **settings)
    result, plan = distill(
        student, dense, splits_of_noise(128), chosen, device=torch.device("cpu"), folder=folder, seed=3, masks=masks,
        fingerprint="this run",
    )  # fmt: skip
    assert result.steps == plan.steps
    weight = student[4].weight  # type: ignore[index]
    assert bool((weight[~masks["4.weight"]] == 0).all())
    return plan


def test_distillation_follows_the_dense_network_and_never_looks_at_a_label() -> None:
    dense, student = small_network(0), small_network(1)
    images = torch.randn(64, 1, 8, 8)
    reestimate_batch_norm(dense, [images])
    before = (student.eval()(images) - dense.eval()(images)).square().mean().item()
    assert distilled(student, dense, None, steps=120) == Distillation(steps=120, amp=None)
    after = (student.eval()(images) - dense.eval()(images)).square().mean().item()
    assert after < 0.7 * before  # noise it has never seen


def test_a_time_limit_makes_fewer_steps_and_the_plan_is_kept_for_a_second_start(tmp_path: Path) -> None:
    dense, student = small_network(0), small_network(1)
    plan = distilled(student, dense, tmp_path, steps=10**6, minutes=0.01)
    assert 1 <= plan.steps < 10**6
    saved = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    saved["steps"] = 3
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(saved))
    (tmp_path / "training_state.pth").unlink(missing_ok=True)
    assert distilled(small_network(1), dense, tmp_path, steps=10**6, minutes=0.01).steps == 3


def test_the_order_of_images_nests() -> None:
    assert first_images(100, 10, 5).tolist() == first_images(100, 40, 5).tolist()[:10]


def test_frozen_batch_norms_keep_their_statistics_while_all_else_learns() -> None:
    dense, student = small_network(0), small_network(1)
    for network in (dense, student):
        reestimate_batch_norm(network, [torch.randn(64, 1, 8, 8)])
    before = {name: value.clone() for name, value in student.state_dict().items()}
    distilled(student, dense, None, steps=5, features=0.0, freeze_batch_norm=True)
    after = student.state_dict()
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert torch.equal(after["1.running_var"], before["1.running_var"])
    assert not torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["0.weight"], before["0.weight"])
    assert not student[1]._forward_hooks
    assert not student[1]._forward_pre_hooks


def moved(**settings: Any) -> float:
    """How far all weights go in one step, where the last layer's are large."""
    dense, student = small_network(0), small_network(1)
    with torch.no_grad():
        student[4].weight.mul_(100)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in student.parameters()])
    distilled(student, dense, None, steps=1, features=0.0, **settings)
    return float((torch.cat([parameter.detach().flatten() for parameter in student.parameters()]) - before).norm())


def test_a_step_is_limited_where_nothing_normalises_by_the_batch() -> None:
    longest = 0.05 * 5 * 1.9  # rate, norm, Nesterov's momentum at the first step
    assert moved(freeze_batch_norm=True) <= longest * 1.001
    assert moved(freeze_batch_norm=True, clip_grad_norm=1e6) > 2 * longest
    assert moved(freeze_batch_norm=True, clip_grad_norm=0.1) <= longest / 50 * 1.001


def test_layers_follow_the_dense_network_as_fast_as_their_factors_say() -> None:
    dense, student = small_network(0), small_network(1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    distilled(student, dense, None, steps=5, lr_factors={"0": 0.0})
    assert torch.equal(student[0].weight, before["0.weight"])
    assert not torch.equal(student[1].weight, before["1.weight"])


def test_a_frozen_batch_norm_normalises_by_its_statistics_in_training() -> None:
    network, images = small_network(0), torch.randn(16, 1, 8, 8)
    reestimate_batch_norm(network, [torch.randn(64, 1, 8, 8) * 3])
    wanted = network.eval()(images)
    with frozen_batch_norm(network.train()):
        assert torch.equal(network(images), wanted)
        assert network[1].training, "whoever asks is told that the network trains"
