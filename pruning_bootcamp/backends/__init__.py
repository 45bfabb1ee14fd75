"""What runs a network and is timed: torch and its variants, ONNX Runtime, OpenVINO, and backends that users bring."""

from pruning_bootcamp.backends import (  # noqa: F401  # each registers its backends
    compiled,
    eager,
    onnx_runtime,
    openvino_runtime,
    openvino_zeros,
    torch_sparse,
)
from pruning_bootcamp.backends.base import BACKENDS, Needs, deployable_copy, lacking, prepare, title_of, version_of
from pruning_bootcamp.backends.ways import Way
from pruning_bootcamp.tools.latency.runner import Runner

__all__ = ["BACKENDS", "Needs", "Runner", "Way", "deployable_copy", "lacking", "prepare", "title_of", "version_of"]
