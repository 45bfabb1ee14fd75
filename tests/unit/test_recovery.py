"""Recovery without labels: re-estimated batch norm, and distillation from the dense network."""

import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.datasets.splits import ImageSplit
from pruning_bootcamp.training.recovery import (
    DistillSettings,
    distill,
    first_images,
    improve_batch_norm,
    reestimate_batch_norm,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_statistics_are_the_average_over_the_batches() -> None:
    model = network().eval()
    batches = [torch.randn(16, 2, 8, 8) * 3 + 1 for _ in range(3)]
    assert reestimate_batch_norm(model, batches)
    with torch.no_grad():
        outputs = [model[0](batch) for batch in batches]
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-5)
    assert torch.allclose(model[1].running_var, variances, rtol=1e-4)


def test_weights_momentum_and_modes_are_left_as_found() -> None:
    model = network().eval()
    model[2].train()
    before = copy.deepcopy(model.state_dict())
    reestimate_batch_norm(model, [torch.randn(8, 2, 8, 8)])
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert model[1].momentum == 0.1
    assert [module.training for module in model] == [False, False, True, False, False]


def test_a_network_without_batch_norm_is_not_touched() -> None:
    model = nn.Linear(2, 2)
    assert not reestimate_batch_norm(model, [torch.randn(2, 2)])


def test_batch_norm_is_re_estimated_where_that_helps_and_left_where_it_does_not() -> None:
    torch.manual_seed(0)
    images = [torch.randn(64, 2, 8, 8) * 3 + 1 for _ in range(4)]
    dense = network()
    reestimate_batch_norm(dense, images)
    spoilt = copy.deepcopy(dense)
    spoilt[1].running_mean += 2.0
    found = improve_batch_norm(spoilt, dense, images, images[:1])
    assert found is not None
    assert found.kept
    assert found.after < 0.01 * found.before
    assert torch.allclose(spoilt[1].running_mean, dense[1].running_mean, atol=1e-5)

    good = copy.deepcopy(dense)
    before = copy.deepcopy(good.state_dict())
    found = improve_batch_norm(good, dense, [torch.randn(64, 2, 8, 8)], images[:1])  # other images: other statistics
    assert found is not None
    assert not found.kept
    assert all(torch.equal(value, before[name]) for name, value in good.state_dict().items())


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


def distilled(student: nn.Module, dense: nn.Module, folder: Path | None, **settings: Any) -> dict[str, Any]:
    masks = {"4.weight": student[4].weight.detach().abs() > 0.03}  # type: ignore[index]
    chosen = DistillSettings(images=96, batch_size=32, lr=0.05, **settings)
    result, plan = distill(
        student, dense, splits_of_noise(128), chosen, device=torch.device("cpu"), folder=folder, seed=3, masks=masks,
        fingerprint="this run",
    )  # fmt: skip
    assert result.steps == plan["steps"]
    weight = student[4].weight  # type: ignore[index]
    assert bool((weight[~masks["4.weight"]] == 0).all())
    return plan


def test_distillation_follows_the_dense_network_and_never_looks_at_a_label() -> None:
    dense, student = small_network(0), small_network(1)
    images = torch.randn(64, 1, 8, 8)
    reestimate_batch_norm(dense, [images])
    before = (student.eval()(images) - dense.eval()(images)).square().mean().item()
    assert distilled(student, dense, None, steps=120) == {"steps": 120, "amp": None}
    after = (student.eval()(images) - dense.eval()(images)).square().mean().item()
    assert after < 0.7 * before  # noise it has never seen


def test_a_time_limit_makes_fewer_steps_and_the_plan_is_kept_for_a_second_start(tmp_path: Path) -> None:
    dense, student = small_network(0), small_network(1)
    plan = distilled(student, dense, tmp_path, steps=10**6, minutes=0.01)
    assert 1 <= plan["steps"] < 10**6
    saved = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    saved["steps"] = 3
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(saved))
    (tmp_path / "training_state.pth").unlink(missing_ok=True)
    assert distilled(small_network(1), dense, tmp_path, steps=10**6, minutes=0.01)["steps"] == 3


def test_the_order_of_images_nests() -> None:
    assert first_images(100, 10, 5).tolist() == first_images(100, 40, 5).tolist()[:10]
