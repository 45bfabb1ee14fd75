"""Settings of pipelines and of what leaves them."""

from dataclasses import dataclass, field
from typing import Literal

from pruning_bootcamp.schema import between


@dataclass
class PipelineConfig:
    """What `pipeline run` does to the network between training and evaluation."""

    steps: list[str] = field(default_factory=lambda: ["prune-unstructured"])
    """in this order: prune-structured, prune-unstructured, fine-tune, distill, quantize"""


@dataclass
class GatesConfig:
    """What a network must reach to be exported; judged on validation images, then once on the test images."""

    min_accuracy: float | None = between(None, 0, 100)
    """percent"""
    max_accuracy_drop: float | None = None
    """points lost against the dense network"""
    min_flops_reduction_pct: float | None = between(None, 0, 100)
    """percent fewer multiply-accumulates"""
    min_latency_reduction_pct: float | None = None
    """percent less time for a batch, measured here (profile.backend, profile.batch_size)"""
    max_size_mb: float | None = between(None, 0, None, "(]")
    """no exported file is larger (10^6 bytes)"""
    export_verified: bool = True
    """every exported file was run and compared with the network"""
    no_fall_back: bool = False
    """no layer was skipped, damped more than asked, or otherwise treated differently from what was asked"""


@dataclass
class CardConfig:
    """What only you can say about the network, for its model card."""

    license: str | None = None
    """of the weights, as an SPDX identifier: apache-2.0, mit, cc-by-4.0, ..."""
    data_license: str | None = None
    """of the data that it was trained on"""
    authors: list[str] = field(default_factory=list)
    """who answers for it"""
    intended_use: str | None = None
    """what it is for"""
    limits: list[str] = field(default_factory=list)
    """what it is not good at, beside what was measured"""


@dataclass
class ExportConfig:
    format: str = "both"
    """onnx, torchscript, pt2, int8, sparse, both (onnx and torchscript) or all; several with commas: int8,sparse"""
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
    int8_reduce_range: bool = False
    """int8 weights of 7 bits, for x86 processors without VNNI"""


@dataclass
class ProfileConfig:
    measure_latency: bool = True
    """false: FLOPs and parameters only"""
    backend: Literal["torch", "onnxruntime"] = "torch"
    """what runs the network"""
    batch_size: int = between(1, 1)
    """images per forward pass"""
    runs: int = between(50, 3)
    """timed passes of each network, interleaved"""
