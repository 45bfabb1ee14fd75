"""What the machine itself can be told: the sections `model`, `goal`, `gates`, `pipeline`, `card` and `profile`."""

from dataclasses import dataclass, field
from typing import Any

from pruning_bootcamp.schema import between
from pruning_bootcamp.shorthand import comma_separated


@dataclass
class ModelSettings:
    name: str = "cifar_resnet20"
    """a model of `pruning-bootcamp list`, any torchvision or timm name, or module:factory"""
    args: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the model's builder; classes and channels come from the data"""


@dataclass
class GoalSettings:
    """What the pruned network must reach to be called a success (`goal_met`)."""

    flops_reduction_pct: float = between(40.0, 0, 100)
    """at least so many percent fewer multiply-accumulates; not asked of a network that is cut to a budget in time"""
    latency_reduction_pct: float | None = between(None, 0, 100)
    """at least so many percent less time for a batch, measured here (profile.backend, profile.batch_size), 0: quicker
    at all; left out: what a budget in time asks for, else nothing"""
    accuracy_drop: float = 1.5
    """at most so many points of accuracy lost, on the test split"""
    evaluate_test: bool = True
    """false: training and pruning leave the test split unread, give validation metrics (val_...) and judge no goal"""


@dataclass
class GatesSettings:
    """What a network must reach to be exported; judged on validation images, then once on the test images."""

    min_accuracy: float | None = between(None, 0, 100)
    """percent"""
    max_accuracy_drop: float | None = None
    """points lost against the dense network"""
    min_flops_reduction_pct: float | None = between(None, 0, 100)
    """percent fewer multiply-accumulates"""
    min_latency_reduction_pct: float | None = None
    """percent less time for a batch, measured here (profile.backend, profile.batch_size), on every backend named"""
    max_size_mb: float | None = between(None, 0, None, "(]")
    """no exported file is larger (10^6 bytes)"""
    export_verified: bool = True
    """every exported file was run and compared with the network"""
    no_fall_back: bool = False
    """no layer was skipped, damped more than asked, or otherwise treated differently from what was asked"""


@dataclass
class PipelineSettings:
    """What `pipeline run` does to the network between training and evaluation."""

    steps: list[str] = field(default_factory=lambda: ["prune-unstructured"])
    """in this order: prune-structured, prune-unstructured, fine-tune, distill, quantize"""


@dataclass
class CardSettings:
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
class ProfileSettings:
    measure_latency: bool = True
    """time both networks, in turn; false: FLOPs and parameters only"""
    backend: str = "torch"
    """what runs the network: torch, channels_last, compile, cuda_graph, onnxruntime, onnxruntime_int8, openvino,
    openvino_int8, openvino_int8_sparse, torch_sparse, or module:function; several with commas, the first of them
    the main one"""
    batch_size: int = between(1, 1)
    """images per forward pass"""
    runs: int = between(50, 3)
    """timed passes of each network, interleaved"""
    more_batch_sizes: list[int] = field(default_factory=list)
    """further batch sizes at which a budget in time, and a goal or gate of time, has to be met"""
    what_would_pay: bool = False
    """also try what would make the network quicker here: every backend that is installed, narrower layers in several
    multiples, int8, its zeros; takes a minute or more"""

    @property
    def backends(self) -> tuple[str, ...]:
        """The names in `backend`, the main one first."""
        return comma_separated(self.backend)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those at which time counts, the main one first."""
        return tuple(dict.fromkeys((self.batch_size, *self.more_batch_sizes)))
