"""The data sets by name: checked before anything is read, then opened and split."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.schema import check_ranges
from pruning_bootcamp.tools.data_settings import DataSettings
from pruning_bootcamp.tools.datasets.selection import hold_out, take
from pruning_bootcamp.tools.datasets.splits import HELD_OUT, Split, Splits


def _not_splits(splits: Any) -> str | None:
    """What is wrong with what a user's function gave; shapes, classes and labels must fit each other."""
    if not isinstance(splits, Splits):
        return f"{type(splits).__name__}, and a dataset is Splits of pruning_bootcamp.tools.datasets"
    as_stored = splits.train.as_stored
    channels, classes = 0 if as_stored else splits.shape[0], len(splits.class_names)
    if len(splits.mean) != channels or len(splits.std) != channels:
        why = "inputs that a network is given as they are" if as_stored else f"{channels} channels"
        return f"mean {splits.mean} and std {splits.std} for {why}"
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if len(split) < (2 if name == "train" else 1):
            return f"{len(split)} samples in {name}"
        if split.shape != splits.shape:
            return f"inputs of {split.shape} in {name}, and shape {splits.shape}"
        if as_stored:
            continue  # what targets may be is the task's to say
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= classes:
            return f"labels from {low} to {high} in {name}, and {classes} class names"
    return None


# Facts of a data set: channels (unless it has a setting of that name), and look(root, settings), which raises
# BootcampError when the data is not there, without decoding any of it. A user's own takes of the given what it needs.
DATASETS: Registry[Callable[..., Splits]] = Registry(
    "dataset", given=("root", "val_fraction", "limit"), plural="datasets", contract=_not_splits
)

Statistic = tuple[float, ...]  # one value per channel

VAL_AT_LEAST = 500  # with a limit: how many validation images stay even when fewer are trained on


def load_dataset(
    name: str,
    *,
    root: str | Path = "data",
    val_fraction: float = 0.1,
    limit: int | None = None,
    args: Mapping[str, Plain] | None = None,
) -> Splits:
    """The data set, its validation split held out of train. `args` are the settings of the registered function.

    Which images are held out, and which a `limit` keeps, depends on the data's own `split_seed` setting, never on the
    run's seed: runs with different seeds are compared on the same images.
    `limit` is the number of training images, chosen after the validation split and in the classes' true shares;
    validation is then cut to max(limit, 500) images, and the test split is never cut.
    """
    return open_dataset(DataSettings(name, str(root), dict(args or {}), val_fraction, limit))


def open_dataset(data: DataSettings) -> Splits:
    """The data set that the section `data` asks for; see `load_dataset`."""
    if problems := check_dataset(data.name, root=data.root, args=data.args) + check_ranges(data, "data"):
        raise BootcampError(*problems)
    settings, _ = DATASETS.check(data.name, data.args, "data")
    return DATASETS[data.name](root=_folder(data.root), val_fraction=data.val_fraction, limit=data.limit, **settings)


def check_dataset(name: str, *, root: str | Path, args: Mapping[str, Plain], where: str = "data") -> list[Problem]:
    """Every problem with the name, the settings and the folder. Quick: lists folders, reads no image."""
    settings, problems = DATASETS.check(name, args, where)
    if name not in DATASETS:
        return problems
    facts = DATASETS[name].facts
    channels = settings.get("channels", facts.get("channels"))
    for statistic in ("mean", "std"):
        values = settings.get(statistic)
        if values is not None and channels is not None and len(values) != channels:
            problems.append(Problem(f"{where}.args.{statistic}", f"{len(values)} values for {channels} channels."))
    if any(value <= 0 for value in settings.get("std") or ()):
        problems.append(Problem(f"{where}.args.std", f"{list(settings['std'])} has a value that is not above 0."))
    if not problems and "look" in facts:
        try:
            facts["look"](_folder(root), settings)
        except BootcampError as error:
            problems += [problem.under(f"{where}.root") for problem in error.problems]
        except OSError as error:
            problems.append(Problem(f"{where}.root", f"{error.filename}: can't be read ({error.strerror})."))
    return problems


def _folder(root: str | Path) -> Path:
    try:
        return Path(root).expanduser()
    except RuntimeError as error:  # ~somebody, whom nobody knows
        raise BootcampError(f"{root}: {error} Write the whole path.") from None


def make_splits(
    name: str,
    *,
    train: Split,
    test: Split,
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: tuple[str, ...],
    val_fraction: float,
    split_seed: int,
    limit: int | None,
    val: Split | None = None,
    val_from: str = HELD_OUT,
    test_from: str = "the data set's own",
) -> Splits:
    """Hold validation out of train (where the data set has none of its own), then limit both."""
    if len(train) < 2 or len(test) == 0:
        raise BootcampError(f"{name}: {len(train)} training and {len(test)} test images are too few to work with.")
    if val is None:
        kept, held_out = hold_out(train.labels, val_fraction, split_seed)
        train, val = train.subset(kept), train.subset(held_out)
    if limit is not None:
        train = _limited(train, limit, split_seed)
        val = _limited(val, max(limit, VAL_AT_LEAST), split_seed)
    assert train.shape == val.shape == test.shape, "splits of one data set with different shapes"
    return Splits(name, train, val, test, class_names, train.shape, mean, std, augment, val_from, test_from)


def _limited(split: Split, limit: int, seed: int) -> Split:
    return split.subset(take(split.labels, limit, seed)) if limit < len(split) else split
