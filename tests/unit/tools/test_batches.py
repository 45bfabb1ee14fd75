"""Training batches are a function of (seed, epoch, step); evaluation sees every image once."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.datasets import FileSplit, ImageSplit, TrainBatches, calibration_batches, eval_batches
from pruning_bootcamp.tools.datasets.batches import Batch
from pruning_bootcamp.tools.datasets.decoding import Decoder, decode_files

LOOK: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "device": "cpu"}
AUGMENT = ("crop", "flip", "cutout")


def split(count: int = 70) -> ImageSplit:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=generator)
    return ImageSplit(images, torch.arange(count) % 10)


def batches(count: int = 70, batch_size: int = 16, seed: int = 0, **changes: Any) -> TrainBatches:
    settings = {**LOOK, "augment": AUGMENT, **changes}
    return TrainBatches(split(count), batch_size=batch_size, seed=seed, **settings)


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_an_epoch_holds_every_image_once_with_its_label() -> None:
    seen = list(batches().epoch(0))
    assert [len(batch.images) for batch in seen] == [16, 16, 16, 16, 6]
    assert [batch.global_size for batch in seen] == [16, 16, 16, 16, 6]
    indices = torch.cat([batch.indices for batch in seen])
    assert sorted(indices.tolist()) == list(range(70))
    assert indices.tolist() != list(range(70))
    assert torch.equal(torch.cat([batch.labels for batch in seen]), indices % 10)


def test_an_epoch_entered_at_a_step_goes_on_as_if_run_from_its_start() -> None:
    data = batches()
    whole = list(data.epoch(3))
    for start in range(6):
        assert same(list(data.epoch(3, start_step=start)), whole[start:])
    assert same(list(batches().epoch(3, start_step=2)), whole[2:])


def test_epochs_and_seeds_differ_in_order_and_in_augmentation() -> None:
    first, second = list(batches().epoch(0)), list(batches().epoch(1))
    other = list(batches(seed=1).epoch(0))
    for one, two in ((first, second), (first, other)):
        assert torch.cat([b.indices for b in one]).tolist() != torch.cat([b.indices for b in two]).tolist()
    look = {int(i): image for batch in first for i, image in zip(batch.indices, batch.images, strict=True)}
    again = {int(i): image for batch in second for i, image in zip(batch.indices, batch.images, strict=True)}
    assert sum(torch.equal(look[i], again[i]) for i in look) < 5


def test_each_step_draws_its_own_augmentation() -> None:
    alike = ImageSplit(split(1).images.expand(64, -1, -1, -1), torch.zeros(64))
    data = TrainBatches(alike, batch_size=16, seed=0, augment=["crop"], **LOOK)
    looks = [batch.images.numpy().tobytes() for epoch in range(2) for batch in data.epoch(epoch)]
    assert len(set(looks)) == 8


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("count", [70, 64])
def test_processes_together_see_what_one_would(world: int, count: int) -> None:
    alone = list(batches(count).epoch(2))
    parts = [list(batches(count, rank=rank, world=world).epoch(2)) for rank in range(world)]
    assert all(len(part) == len(alone) for part in parts)
    for step, whole in enumerate(alone):
        for rank, part in enumerate(parts):
            mine = part[step]
            assert mine.global_size == len(whole.images)
            assert torch.equal(mine.indices, whole.indices[rank::world])
            assert torch.equal(mine.labels, whole.labels[rank::world])
            assert torch.equal(mine.images, whole.images[rank::world])
        assert sum(len(part[step].images) for part in parts) == len(whole.images)


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    first = list(batches().epoch(0))
    before = torch.get_rng_state()
    torch.manual_seed(2)
    changed = torch.get_rng_state()
    assert same(first, list(batches().epoch(0)))
    assert torch.equal(torch.get_rng_state(), changed)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("count", "world", "sizes"),
    [(33, 1, [16, 16]), (34, 1, [16, 16, 2]), (35, 2, [16, 16]), (36, 2, [16, 16, 4]), (7, 1, [7])],
)
def test_a_last_batch_too_small_for_batch_norm_is_left_out(count: int, world: int, sizes: list[int]) -> None:
    data = batches(count, world=world)
    assert data.steps_per_epoch == len(sizes)
    assert [batch.global_size for batch in data.epoch(0)] == sizes


def test_too_few_images_are_refused() -> None:
    with pytest.raises(BootcampError, match="1 training images are too few"):
        batches(1)
    with pytest.raises(BootcampError, match="can't be dealt to 4 processes"):
        batches(batch_size=2, world=4)


def test_images_are_normalised_as_torchvision_does() -> None:
    (batch,) = batches(20, batch_size=20, augment=()).epoch(0)
    stored = split(20).images[batch.indices].float() / 255
    torch.testing.assert_close(batch.images, TF.normalize(stored, LOOK["mean"], LOOK["std"]), rtol=0, atol=1e-6)
    assert batch.images.is_contiguous()
    (turned,) = batches(20, batch_size=20, augment=(), channels_last=True).epoch(0)
    assert turned.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(turned.images, batch.images)


def test_training_crops_use_the_stored_margin_and_evaluation_the_middle() -> None:
    images = split(30).images
    wide = ImageSplit(images, torch.arange(30) % 10, size=(8, 8))
    assert wide.shape == (3, 8, 8)
    assert torch.equal(wide.fetch(torch.arange(30)), images[:, :, 2:10, 2:10])
    plain: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "device": "cpu"}
    data = TrainBatches(wide, batch_size=30, seed=0, augment=[("crop", {"pad": 0})], **plain)
    windows = images.unfold(2, 8, 1).unfold(3, 8, 1)
    found = set()
    (batch,) = data.epoch(0)
    for index, image in zip(batch.indices, (batch.images * 255).round().byte(), strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(windows[index, :, y, x], image)]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 12  # of 25, by 30 draws
    (unchanged,) = TrainBatches(wide, batch_size=30, seed=0, augment=(), **plain).epoch(0)
    assert unchanged.images.shape == (30, 3, 8, 8)


def test_evaluation_is_in_order_and_complete() -> None:
    everything = list(eval_batches(split(), batch_size=32, **LOOK))
    assert [len(images) for images, _ in everything] == [32, 32, 6]
    assert torch.equal(torch.cat([labels for _, labels in everything]), torch.arange(70) % 10)
    expected = TF.normalize(split().images.float() / 255, LOOK["mean"], LOOK["std"])
    torch.testing.assert_close(torch.cat([images for images, _ in everything]), expected, rtol=0, atol=1e-6)
    assert list(eval_batches(split(0), batch_size=32, **LOOK)) == []


def test_a_limited_evaluation_of_a_sorted_split_sees_every_class() -> None:
    by_class = ImageSplit(split(100).images, torch.arange(100) // 10)
    (only,) = eval_batches(by_class, batch_size=32, limit=20, **LOOK)
    assert only[1].bincount().tolist() == [2] * 10


@pytest.mark.parametrize(("images", "sizes"), [(40, [32, 8]), (33, [32]), (1000, None), (150, None)])
def test_calibration_gives_as_many_images_as_asked(images: int, sizes: list[int] | None) -> None:
    given = list(calibration_batches(split(), images=images, batch_size=32, seed=0, augment=AUGMENT, **LOOK))
    assert sum(len(batch) for batch in given) == (images if images != 33 else 32)  # not one image alone
    assert sizes is None or [len(batch) for batch in given] == sizes
    again = list(calibration_batches(split(), images=images, batch_size=32, seed=0, augment=AUGMENT, **LOOK))
    assert all(torch.equal(a, b) for a, b in zip(given, again, strict=True))


@pytest.fixture
def files(disk: ModuleType, tmp_path: Path) -> FileSplit:
    written = disk.write_tree(tmp_path, {"train": 8}, sizes=((14, 12), (12, 20), (12, 12)))
    paths = [tmp_path / name for name in written]
    return FileSplit(paths, torch.arange(len(paths)) % 3, Decoder(channels=3, side=12), (10, 10))


def test_images_left_in_files_give_the_same_batches(files: FileSplit) -> None:
    in_memory = ImageSplit(decode_files(files.paths, files.decoder), files.labels, (10, 10))
    settings: dict[str, Any] = {**LOOK, "batch_size": 5, "seed": 1, "augment": ["resized_crop", "flip"]}
    first, second = TrainBatches(files, **settings), TrainBatches(in_memory, **settings)
    for epoch, start in ((0, 0), (1, 2)):
        assert same(list(first.epoch(epoch, start)), list(second.epoch(epoch, start)))
    pairs = zip(eval_batches(files, batch_size=7, **LOOK), eval_batches(in_memory, batch_size=7, **LOOK), strict=True)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_reading_ahead_stops_with_the_reader(files: FileSplit) -> None:
    before = threading.active_count()
    for _ in range(3):
        reader = eval_batches(files, batch_size=2, **LOOK)
        next(reader)
        reader.close()
    assert threading.active_count() == before


def test_a_file_that_turns_bad_is_named_during_training(files: FileSplit) -> None:
    Path(files.paths[7]).write_bytes(b"not an image")
    with pytest.raises(BootcampError, match=r"7\.png: can't be read as an image"):
        list(TrainBatches(files, batch_size=4, seed=0, augment=(), **LOOK).epoch(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found")
def test_a_gpu_gives_the_same_batches() -> None:
    augment = (*AUGMENT, "resized_crop", "shift")
    on_cpu, on_gpu = batches(augment=augment), batches(augment=augment, device="cuda")
    for one, two in zip(on_cpu.epoch(0), on_gpu.epoch(0), strict=True):
        assert two.images.is_cuda
        assert two.labels.is_cuda
        # resized_crop may round a grey level the other way
        assert (one.images - two.images.cpu()).abs().max() <= 1.01 / 255 / min(LOOK["std"])
        assert torch.equal(one.labels, two.labels.cpu())
        assert np.array_equal(one.indices, two.indices.cpu())
