"""Images for training, evaluation and calibration: data sets by name, splits, augmentation and batches."""

# the modules imported for their sake register the data sets
from pruning_bootcamp.tools.datasets import cifar, digits, fashion_mnist, image_folders
from pruning_bootcamp.tools.datasets.augment import AUGMENTATIONS
from pruning_bootcamp.tools.datasets.batches import Batch, TrainBatches, calibration_batches, eval_batches
from pruning_bootcamp.tools.datasets.catalog import DATASETS, check_dataset, load_dataset, open_dataset
from pruning_bootcamp.tools.datasets.decoding import FileSplit
from pruning_bootcamp.tools.datasets.splits import ImageSplit, Split, Splits, TensorSplit

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Batch",
    "FileSplit",
    "ImageSplit",
    "Split",
    "Splits",
    "TensorSplit",
    "TrainBatches",
    "calibration_batches",
    "check_dataset",
    "cifar",
    "digits",
    "eval_batches",
    "fashion_mnist",
    "image_folders",
    "load_dataset",
    "open_dataset",
]
