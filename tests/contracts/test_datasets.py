"""Every registered data set and augmentation keeps the promises of its registry, on files made here."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pruning_bootcamp.tools.datasets import AUGMENTATIONS, DATASETS, Split, Splits, check_dataset, load_dataset
from pruning_bootcamp.tools.datasets.augment import Target, build_augmentations
from pruning_bootcamp.tools.datasets.splits import HELD_OUT

Prepared = tuple[str, Path, dict[str, Any]]


@pytest.fixture(params=list(DATASETS))
def prepared(request: pytest.FixtureRequest, disk: ModuleType, tmp_path: Path) -> Prepared:
    root, args = disk.prepare(request.param, tmp_path / "data")
    return request.param, root, args


def opened(prepared: Prepared, **changes: Any) -> Splits:
    name, root, args = prepared
    args = {**args, **changes.pop("args", {})}
    return load_dataset(name, root=root, args=args, **changes)


def images_of(split: Split) -> list[bytes]:
    everything = split.fetch(torch.arange(len(split)))
    return [image.numpy().tobytes() for image in everything]


def test_shapes_types_and_labels_are_as_stated(prepared: Prepared) -> None:
    splits = opened(prepared)
    classes = len(splits.class_names)
    assert classes >= 2
    assert len(set(splits.class_names)) == classes
    assert len(splits.mean) == len(splits.std) == splits.shape[0]
    assert all(0 < value < 1 for value in (*splits.mean, *splits.std))
    assert set(splits.augment) <= set(AUGMENTATIONS)
    for split in (splits.train, splits.val, splits.test):
        images = split.fetch(torch.tensor([0, len(split) - 1]))
        assert images.shape == (2, *splits.shape)
        assert images.dtype == torch.uint8
        assert split.shape == splits.shape
        assert split.labels.dtype == torch.long
        assert len(split.labels) == len(split)
        assert split.labels.min() >= 0
        assert split.labels.max() < classes
    assert splits.train.labels.unique().tolist() == list(range(classes))


def test_no_image_is_in_two_splits(prepared: Prepared) -> None:
    splits = opened(prepared)
    train, val, test = (set(images_of(split)) for split in (splits.train, splits.val, splits.test))
    assert train
    assert val
    assert test
    assert len(train) + len(val) == len(splits.train) + len(splits.val)  # all different, so the next lines can fail
    assert not train & val
    assert not (train | val) & test


def test_it_opens_the_same_each_time_and_the_split_seed_moves_validation_only(prepared: Prepared) -> None:
    first, again, other = opened(prepared), opened(prepared), opened(prepared, args={"split_seed": 5})
    for part in ("train", "val", "test"):
        assert images_of(getattr(first, part)) == images_of(getattr(again, part)), part
    assert images_of(first.test) == images_of(other.test)
    moves = first.val_from == HELD_OUT  # a folder's own validation images stay
    assert (set(images_of(first.val)) != set(images_of(other.val))) == moves
    assert set(images_of(first.val)) | set(images_of(first.train)) == set(images_of(other.val)) | set(
        images_of(other.train)
    )


def test_the_limit_takes_training_images_of_every_class(prepared: Prepared) -> None:
    whole = opened(prepared)
    classes = len(whole.class_names)
    limited = opened(prepared, limit=2 * classes)
    assert len(limited.train) == 2 * classes
    assert set(images_of(limited.train)) <= set(images_of(whole.train))
    assert images_of(limited.val) == images_of(whole.val)
    assert images_of(limited.test) == images_of(whole.test)
    counts = limited.train.labels.bincount(minlength=classes)
    assert counts.min() >= 1
    assert counts.max() <= 3


def test_subsets_keep_images_and_labels_together(prepared: Prepared) -> None:
    train = opened(prepared).train
    chosen = torch.tensor([5, 0, 3])
    part = train.subset(chosen)
    assert torch.equal(part.fetch(torch.arange(3)), train.fetch(chosen))
    assert torch.equal(part.labels, train.labels[chosen])
    assert torch.equal(part.to("cpu").labels, part.labels)


def test_preflight_finds_nothing_wrong_with_it_and_something_with_an_empty_folder(
    prepared: Prepared, tmp_path: Path
) -> None:
    name, root, args = prepared
    assert check_dataset(name, root=root, args=args) == []
    empty = tmp_path / "empty"
    empty.mkdir()
    problems = check_dataset(name, root=empty, args=args, where="data")
    if root.exists():  # it reads files; one that is made on the spot has nothing to miss
        assert len(problems) == 1
        assert str(problems[0]).startswith("data.root: ")
        assert str(empty) in str(problems[0])
        assert "Set data.root=DIR" in str(problems[0])


def test_mean_and_std_can_be_set_and_are_checked(prepared: Prepared) -> None:
    name, root, args = prepared
    channels = opened(prepared).shape[0]
    chosen = opened(prepared, args={"mean": [0.5] * channels, "std": [0.25] * channels})
    assert chosen.mean == (0.5,) * channels
    assert chosen.std == (0.25,) * channels
    wrong = {**args, "mean": [0.5, 0.5], "std": [0.0] * channels}
    problems = check_dataset(name, root=root, args=wrong, where="data")
    assert str(problems[0]) == f"data.args.mean: 2 values for {channels} channels."
    assert "not above 0" in str(problems[1])
    assert len(problems) == 2


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentations_act_on_each_image_alone_and_by_their_parameters_only(name: str, channels: int) -> None:
    (augmentation,) = build_augmentations([name])
    images = torch.randint(0, 256, (11, channels, 12, 10), dtype=torch.uint8)
    before = images.clone()
    target = Target((10, 8), (0.5,) * channels)
    parameters = augmentation.draw(11, (12, 10), target, torch.Generator().manual_seed(3))
    again = augmentation.draw(11, (12, 10), target, torch.Generator().manual_seed(3))
    other = augmentation.draw(11, (12, 10), target, torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(parameters, other, strict=True))
    whole = augmentation.apply(images, parameters, target)
    assert torch.equal(images, before)
    assert not torch.equal(whole, images)
    assert whole.dtype == torch.uint8
    assert whole.shape[:2] == images.shape[:2]
    assert tuple(whole.shape[2:]) in {(12, 10), (10, 8)}
    for index in range(11):
        alone = augmentation.apply(images[index : index + 1], tuple(p[index : index + 1] for p in parameters), target)
        assert torch.equal(alone[0], whole[index])
