"""Batched augmentation against one image at a time, done with torchvision or by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as TF

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.datasets.augment import Augmenter, Target, build_augmentations

TARGET = Target((32, 32), (0.2, 0.4, 0.6))


def images(count: int = 40, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("stored", "pad"), [((32, 32), 4), ((40, 36), 0), ((36, 44), 2)])
def test_crop_is_pad_then_crop(stored: tuple[int, int], pad: int) -> None:
    batch = images(40, *stored)
    (crop,) = build_augmentations([("crop", {"pad": pad})])
    parameters = crop.draw(40, stored, TARGET, generator())
    found = crop.apply(batch, parameters, TARGET)
    assert found.shape == (40, 3, 32, 32)
    for image, top, left, result in zip(batch, *parameters, found, strict=True):
        expected = TF.crop(TF.pad(image, [pad]), int(top), int(left), 32, 32)
        assert torch.equal(result, expected)


def test_crop_takes_every_window_about_as_often() -> None:
    (crop,) = build_augmentations(["crop"])
    tops, lefts = crop.draw(81 * 200, (32, 32), TARGET, generator())
    counts = Counter(zip(tops.tolist(), lefts.tolist(), strict=True))
    assert len(counts) == 81  # 0..8 in both directions
    assert min(counts.values()) > 140  # 200 expected, standard deviation 14
    assert max(counts.values()) < 260


def test_shift_moves_and_brings_in_black() -> None:
    batch = images()
    (shift,) = build_augmentations([("shift", {"pixels": 2})])
    tops, lefts = shift.draw(40, (32, 32), TARGET, generator())
    found = shift.apply(batch, (tops, lefts), TARGET)
    assert set(tops.tolist()) == set(range(5))
    for image, top, left, result in zip(batch.numpy(), tops.tolist(), lefts.tolist(), found.numpy(), strict=True):
        expected = np.zeros_like(image)
        for y in range(32):
            for x in range(32):
                if 0 <= y + top - 2 < 32 and 0 <= x + left - 2 < 32:
                    expected[:, y, x] = image[:, y + top - 2, x + left - 2]
        assert np.array_equal(result, expected)


def test_flip_mirrors_half_of_the_images() -> None:
    batch = images(1000)
    (flip,) = build_augmentations(["flip"])
    (chosen,) = flip.draw(1000, (32, 32), TARGET, generator())
    assert 440 < chosen.sum() < 560
    found = flip.apply(batch, (chosen,), TARGET)
    for image, mirrored, result in zip(batch, chosen, found, strict=True):
        assert torch.equal(result, TF.horizontal_flip(image) if mirrored else image)


@pytest.mark.parametrize("size", [1, 7, 8])
def test_cutout_paints_a_square_of_the_mean_colour(size: int) -> None:
    batch = images()
    (cutout,) = build_augmentations([("cutout", {"size": size})])
    rows, columns = cutout.draw(40, (32, 32), TARGET, generator())
    found = cutout.apply(batch, (rows, columns), TARGET)
    colour = torch.tensor([51, 102, 153], dtype=torch.uint8)[:, None, None]
    for image, row, column, result in zip(batch, rows.tolist(), columns.tolist(), found, strict=True):
        top, left = row - size // 2, column - size // 2
        expected = image.clone()
        expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = colour
        assert torch.equal(result, expected)


@pytest.mark.parametrize("stored", [(40, 40), (32, 48)])
def test_resized_crop_is_crop_then_resize(stored: tuple[int, int]) -> None:
    batch = images(40, *stored)
    (augmentation,) = build_augmentations(["resized_crop"])
    parameters = augmentation.draw(40, stored, TARGET, generator())
    found = augmentation.apply(batch, parameters, TARGET)
    assert found.shape == (40, 3, 32, 32)
    for image, top, left, height, width, result in zip(batch, *parameters, found, strict=True):
        part = image[:, top : top + height, left : left + width].float()
        assert part.shape[1:] == (height, width)  # inside the image
        expected = F.interpolate(part[None], size=(32, 32), mode="bilinear", align_corners=False)[0]
        assert (result.float() - expected).abs().max() <= 0.51  # rounded to a whole grey level


def test_resized_crop_draws_areas_and_ratios_as_set() -> None:
    settings = {"area": [0.2, 0.5], "ratio": [0.5, 2.0]}
    (augmentation,) = build_augmentations([("resized_crop", settings)])
    _tops, _lefts, heights, widths = augmentation.draw(5000, (400, 400), TARGET, generator())
    areas, ratios = heights * widths / 160000, widths / heights
    assert 0.19 < areas.min() < 0.21
    assert 0.49 < areas.max() < 0.51
    assert areas.mean() == pytest.approx(0.35, abs=0.005)
    assert ratios.min() > 0.49
    assert ratios.max() < 2.03
    assert ratios.log().mean() == pytest.approx(0, abs=0.03)


def test_a_list_is_applied_in_its_order_with_one_stream_of_numbers() -> None:
    batch = images()
    together = Augmenter(["crop", "flip"], TARGET)(batch, generator=generator(9), count=40, part=slice(None))
    crop, flip = build_augmentations(["crop", "flip"])
    stream = generator(9)
    cropped = crop.apply(batch, crop.draw(40, (32, 32), TARGET, stream), TARGET)
    assert torch.equal(together, flip.apply(cropped, flip.draw(40, (32, 32), TARGET, stream), TARGET))


def test_wrong_names_and_settings_are_said_at_once() -> None:
    with pytest.raises(BootcampError) as caught:
        build_augmentations(["crop", "flpi", ("cutout", {"sise": 8}), ("crop", {"pad": "wide"})])
    text = str(caught.value)
    assert "unknown augmentation 'flpi'. Did you mean 'flip'?" in text
    assert "augment.cutout.args.sise" in text
    assert "augment.crop.args.pad: 'wide' is not a whole number" in text


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("crop", {"pad": -1}),
        ("shift", {"pixels": -1}),
        ("flip", {"probability": 1.5}),
        ("cutout", {"size": 0}),
        ("resized_crop", {"area": [0.0, 1.0]}),
        ("resized_crop", {"ratio": [2.0, 1.0]}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(BootcampError, match=rf"^{name}: "):
        build_augmentations([(name, settings)])
