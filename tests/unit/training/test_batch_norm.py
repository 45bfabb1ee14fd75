"""Re-estimated batch norm: what is estimated, who judges it, by what, and on which images."""

import copy
import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.config import load
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.results import Recovery
from pruning_bootcamp.tools.datasets.splits import ImageSplit, Splits
from pruning_bootcamp.training.batch_norm import (
    DenseJudge,
    Nearness,
    Reestimated,
    apart,
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
    assert improve_batch_norm(model, DenseJudge(model, lambda: [torch.randn(2, 2)]), [torch.randn(2, 2)]) is None


# Two classes; the logits are the image's two numbers, shifted and scaled as batch norm says.
JUDGING = torch.tensor([[2.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.5]])
DENSE_CLASSES = (0, 1, 0, 1)
# Two images with mean (0, 1) and, of each number, a standard deviation of 0.1.
ESTIMATING = torch.tensor([[0.1, 1.1], [-0.1, 0.9]]).sub_(torch.tensor([0.0, 1.0])).div_(math.sqrt(2)).add_(
    torch.tensor([0.0, 1.0])
)  # fmt: skip


def norm(mean: Sequence[float], std: float) -> nn.Module:
    model = nn.BatchNorm1d(2, eps=1e-12, affine=False)
    model.running_mean = torch.tensor(mean)
    model.running_var = torch.full((2,), std**2)
    return model.eval()


def judge() -> DenseJudge:
    return DenseJudge(norm((0.0, 0.0), 1.0), lambda: [JUDGING[:3], JUDGING[3:]])


def divergence(dense: float, ours: float) -> float:
    """Kullback-Leibler, two classes, from the differences of the logits; nats."""
    p, q = 1 / (1 + math.exp(-dense)), 1 / (1 + math.exp(-ours))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_more_images_in_the_dense_class_are_kept_though_the_divergence_grows() -> None:
    dead = norm((-10.0, 0.0), 100.0)  # logits ((x + 10) / 100, y / 100): the first class for every image
    found = improve_batch_norm(dead, judge(), [ESTIMATING])
    assert found is not None
    assert found.before.agreement_pct == 50.0
    # then the logits are (10 x, 10 (y - 1)): (20, -10), (0, 10), (30, 0), and (0, -5), which is surely wrong
    assert found.after.agreement_pct == 75.0
    flat = [divergence(d, o) for d, o in zip((2, -2, 2, -0.5), (0.12, 0.08, 0.12, 0.095), strict=True)]
    sure = [divergence(d, o) for d, o in zip((2, -2, 2, -0.5), (30, -10, 30, 5), strict=True)]
    assert found.before.divergence == pytest.approx(sum(flat) / 4, rel=1e-5)
    assert found.after.divergence == pytest.approx(sum(sure) / 4, rel=1e-4)
    assert found.after.divergence > 5 * found.before.divergence
    assert found.kept
    assert torch.allclose(dead.running_mean, torch.tensor([0.0, 1.0]))  # type: ignore[arg-type]
    assert torch.allclose(dead.running_var, torch.tensor([0.01, 0.01]))  # type: ignore[arg-type]


def test_fewer_images_in_the_dense_class_are_undone_to_the_bit() -> None:
    good = norm((0.001, 0.0), 100.0)  # nearly flat, so it diverges, and right every time
    before = copy.deepcopy(good.state_dict())
    found = improve_batch_norm(good, judge(), [ESTIMATING])
    assert found is not None
    assert (found.before.agreement_pct, found.after.agreement_pct) == (100.0, 75.0)
    assert not found.kept
    assert all(torch.equal(value, before[name]) for name, value in good.state_dict().items())


def test_statistics_that_diverge_less_and_agree_less_are_undone() -> None:
    """The old judge would have kept these: near the dense outputs, and wrong about one image more."""
    sure = norm((0.0, 0.0), 0.01)
    images = torch.tensor([[1.0, 1.45], [-1.0, 0.05]])  # mean (0, 0.75)
    found = improve_batch_norm(sure, judge(), [images])
    assert found is not None
    assert (found.before.agreement_pct, found.after.agreement_pct) == (100.0, 75.0)
    assert found.after.divergence < found.before.divergence
    assert not found.kept


def test_where_as_many_agree_the_divergence_decides() -> None:
    near, far = Nearness(75.0, 0.1), Nearness(75.0, 0.2)
    assert Reestimated(far, near).kept
    assert not Reestimated(near, far).kept
    assert not Reestimated(near, near).kept


def test_an_output_that_is_no_number_agrees_with_nothing() -> None:
    broken = norm((0.0, 0.0), math.nan)
    assert judge()(broken) == Nearness(0.0, math.inf)
    found = improve_batch_norm(broken, judge(), [ESTIMATING])
    assert found is not None
    assert found.kept


@pytest.mark.parametrize("judges", [1024, 300, 4096])
def test_no_image_judges_what_was_estimated_on_it(judges: int) -> None:
    for total, count in product((1, 2, 3, 5, 40, 1000, 1300, 5000, 9000), (1, 2, 64, 999, 2048, 5000)):
        parts = apart(torch.randperm(total), count, judges)
        estimating, judging = (set(part.tolist()) for part in parts)
        assert not estimating & judging
        assert judging or total < 5
        assert len(estimating) <= count
        assert len(estimating | judging) <= total
        if total >= count + judges:
            assert (len(estimating), len(judging)) == (count, judges)
        elif total >= 5:
            assert len(estimating) >= min(count, 0.8 * total)
            assert len(judging) >= min(judges, total // 5)


class Recording(nn.Module):
    """A batch norm that remembers which images it saw, by their first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.seen: dict[str, list[float]] = {"train": [], "eval": []}

    def forward(self, images: Tensor) -> Tensor:
        self.seen["train" if self.training else "eval"] += images[:, 0, 0, 0].tolist()
        return self.norm(images).flatten(1)[:, :2]


def numbered(first: int, count: int) -> ImageSplit:
    """Images that are all of one grey: their number."""
    pixels = torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    return ImageSplit(pixels.contiguous(), torch.full((count,), -7))  # a label that any use of it would trip over


def recovered(train: int, bn_images: int) -> tuple[Recording, Recording, dict[str, Any]]:
    splits = Splits("grey", numbered(0, train), numbered(200, 20), numbered(220, 20), ("a", "b"), (1, 4, 4),
                    (0.0,), (1 / 255,), ())  # fmt: skip
    cfg = load(None, ["train.augment=[]", f"recover.bn_images={bn_images}"])
    dense, model = Recording(), Recording()
    return dense, model, recover_batch_norm(model, dense, cfg, splits, torch.device("cpu"))


@pytest.mark.parametrize(("bn_images", "estimated", "judged"), [(60, 60, 40), (2048, 80, 20), (10, 10, 90)])
def test_judged_on_training_images_that_nothing_was_estimated_on(bn_images: int, estimated: int, judged: int) -> None:
    dense, model, figures = recovered(100, bn_images)
    assert dense.seen["train"] == []
    assert sorted(set(model.seen["eval"])) == sorted(dense.seen["eval"])
    assert len(set(model.seen["train"])) == estimated
    assert len(set(model.seen["eval"])) == judged
    assert not set(model.seen["train"]) & set(model.seen["eval"])
    assert max(model.seen["train"] + model.seen["eval"]) < 100  # neither validation nor test
    assert (figures.batch_norm.estimated_on, figures.batch_norm.judged_on) == (estimated, judged)
    assert set(to_plain(figures.batch_norm)) == {
        *("estimated_on", "judged_on", "agreement_pct_before", "agreement_pct_after"),
        *("divergence_before", "divergence_after"),
    }


def test_too_few_images_to_estimate_and_judge_on_leave_the_statistics_alone() -> None:
    _, model, figures = recovered(2, 2048)
    assert figures == Recovery()
    assert model.norm.num_batches_tracked == 0


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    _, model, figures = recovered(100, 0)
    assert figures == Recovery()
    assert model.seen == {"train": [], "eval": []}
