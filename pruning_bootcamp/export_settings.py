"""What an export can be told: the section `export`, light enough for `--help`."""

from dataclasses import dataclass, field
from typing import Literal

from pruning_bootcamp.errors import Problem
from pruning_bootcamp.schema import between, check_ranges


@dataclass
class ExportSettings:
    """Deployment files, and how each is compared with the network."""

    format: str = "both"
    """onnx, torchscript, torchscript_sparse, pt2, int8, sparse, both (onnx and torchscript) or all; several with
    commas: int8,sparse"""
    verify: bool = True
    """run the file on fresh inputs, here and in a new process, and compare"""
    opset: int | None = between(None, 7)
    """ONNX operator set; left out: the exporter's default"""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 2, 7])
    """batch sizes to verify with"""
    tolerance: float = between(1e-5, 0, None, "(]")
    """largest difference allowed, relative to the largest output (at least 1)"""
    calibration_images: int = between(512, 1)
    """training images, without their labels, on which int8 measures the activations' ranges"""
    agreement: float = between(0.97, 0, 1, "(]")
    """share of validation images for which a file with int8 numbers must choose the same class as the network"""
    agreement_images: int = between(1000, 1)
    """validation images for that, at most"""
    sparse_values: Literal["float32", "int8"] = "float32"
    """what sparse stores: the exact weights, or those of convolutions and linear layers in int8"""
    int8_reduce_range: bool = True
    """int8 weights of 7 bits, whose sums overflow on no processor; false: of 8, for processors with VNNI, or ARM"""
    pad_to: int | Literal["auto"] | None = between(None, 2, 64)
    """widths rounded up to multiples of this by zero channels, the function exact; auto: of 4, 8 or 16, whichever is
    quickest in onnxruntime here, if quicker for certain"""


def check_export(settings: ExportSettings, where: str = "export") -> list[Problem]:
    """What is wrong with the settings, whatever the format."""
    problems, sizes = check_ranges(settings, where), settings.batch_sizes
    if min(sizes, default=0) < 1:
        problems.append(Problem(f"{where}.batch_sizes", f"{list(sizes)} is not a list of numbers from 1 up."))
    return problems
