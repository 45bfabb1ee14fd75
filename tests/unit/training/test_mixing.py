"""Mixed pairs: the loss by hand, pixels counted, functions of seed and step alone; followed after a teacher."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.datasets import Splits, TensorSplit
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.losses import TrainingLoss
from pruning_bootcamp.training.mixing import Mixing, cutmix_window, mixup_share, unmixable
from pruning_bootcamp.training.settings import TrainSettings

REVERSED = [3, 2, 1, 0]
LABELS = torch.tensor([0, 1, 2, 0])


def by_hand(mixed: torch.Tensor, share: float) -> torch.Tensor:
    one_hot = share * F.one_hot(LABELS, 3) + (1 - share) * F.one_hot(LABELS[REVERSED], 3)
    target = 0.9 * one_hot + 0.1 / 3
    return -(target * mixed.log_softmax(1)).sum()


def test_smoothed_and_blended_loss_by_hand() -> None:
    torch.manual_seed(1)
    images = torch.randn(4, 3)
    share = mixup_share(0.4, 9, 17)
    expected = by_hand(share * images + (1 - share) * images[REVERSED], share)
    loss, right = TrainingLoss(classes=3, label_smoothing=0.1, mixing=Mixing(0.4, seed=9))(
        lambda x: x, images, LABELS, 17
    )
    torch.testing.assert_close(loss, expected)
    assert 0 <= right <= 4


def test_smoothed_and_pasted_loss_by_hand() -> None:
    torch.manual_seed(1)
    images = torch.randn(4, 3, 6, 5)
    top, bottom, left, right = cutmix_window(1.0, (6, 5), 9, 17)
    mixed = torch.stack(
        [
            torch.stack(
                [
                    torch.tensor(
                        [
                            float((other if top <= y < bottom and left <= x < right else one)[c, y, x])
                            for y in range(6)
                            for x in range(5)
                        ]
                    )
                    for c in range(3)
                ]
            )
            for one, other in zip(images, images[REVERSED], strict=True)
        ]
    )
    share = 1 - (bottom - top) * (right - left) / 30
    assert 0 < share < 1
    network = nn.Sequential(nn.Flatten(2), nn.AvgPool1d(30), nn.Flatten())
    loss, _ = TrainingLoss(classes=3, label_smoothing=0.1, mixing=Mixing(cutmix=1.0, seed=9))(
        network, images, LABELS, 17
    )
    torch.testing.assert_close(loss, by_hand(mixed.mean(2), share))


@given(
    alpha=st.floats(0.05, 4.0),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**6),
)
def test_a_window_lies_within_the_image(alpha: float, size: tuple[int, int], seed: int, step: int) -> None:
    top, bottom, left, right = cutmix_window(alpha, size, seed, step)
    assert 0 <= top <= bottom <= size[0]
    assert 0 <= left <= right <= size[1]
    assert (top, bottom, left, right) == cutmix_window(alpha, size, seed, step)


def test_shares_are_spread_and_each_way_is_taken_half_of_the_steps() -> None:
    shares = [mixup_share(0.2, seed, step) for seed in range(3) for step in range(200)]
    assert len(set(shares)) > 590
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.05)
    images = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    both = Mixing(1.0, 1.0, seed=3)
    pasted = [bool((both(images, step)[0] % 1 == 0).all()) for step in range(400)]
    assert 160 < sum(pasted) < 240
    for step in range(50):  # the share says how much of the first is left
        mixed, share = both(images, step)
        assert float(mixed[1].mean()) == pytest.approx(share, abs=1e-6)
        assert float(mixed[0].mean()) == pytest.approx(1 - share, abs=1e-6)


def test_a_teacher_is_asked_about_the_mixed_images() -> None:
    torch.manual_seed(0)
    images, seen = torch.randn(4, 3, 4, 4), []

    class Teacher(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean((2, 3))

    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loss, _ = TrainingLoss(classes=3, mixing=Mixing(1.0, 1.0, seed=1), teacher=Teacher(), distill_weight=1.0)(
        network, images, LABELS, 4
    )
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert torch.equal(seen[0], Mixing(1.0, 1.0, seed=1)(images, 4)[0])
    assert not torch.equal(seen[0], images)


@pytest.mark.parametrize(
    ("inputs", "settings", "keys"),
    [
        (torch.zeros(4, 7, dtype=torch.long), {"mixup": 0.2, "cutmix": 1.0}, ["train.mixup", "train.cutmix"]),
        (torch.zeros(4, 7), {"mixup": 0.2, "cutmix": 1.0}, ["train.cutmix"]),
        (torch.zeros(4, 1, 7, 7), {"mixup": 0.2, "cutmix": 1.0}, []),
        (torch.zeros(4, 7, dtype=torch.long), {}, []),
    ],
)
def test_what_is_no_image_is_not_mixed(inputs: torch.Tensor, settings: dict[str, float], keys: list[str]) -> None:
    split = TensorSplit(inputs, LABELS)
    splits = Splits("own", split, split, split, ("a", "b", "c"), tuple(inputs.shape[1:]))
    problems = unmixable(TrainSettings(**settings), splits, "train")
    assert [problem.path for problem in problems] == keys
    network = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 3))
    if keys:
        with pytest.raises(BootcampError, match="Set it to 0"):
            fit(network, splits, TrainSettings(**settings), device=torch.device("cpu"))
