"""OpenVINO on the CPU: of a network, in float32 or int8."""

import functools
from collections import Counter
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS, Needs
from pruning_bootcamp.backends.eager import SMALL_BATCHES
from pruning_bootcamp.backends.files import INT8_ADVICE, INT8_TOLERANCE, float32_file, int8_file
from pruning_bootcamp.backends.precision import precision_said
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.latency.runner import Runner

NEEDS = Needs(module="openvino", extra="openvino")
_PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}


@BACKENDS.register(
    "openvino",
    title="openvino on cpu",
    tolerance=1e-3,
    needs=NEEDS,
    profiled=lambda device_type: SMALL_BATCHES,
)
def openvino(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """OpenVINO on the CPU: the network as an ONNX file, compiled for the batch size, in float32 throughout."""
    return opened("openvino", float32_file(model, example, "openvino"), example, threads)[0]


@BACKENDS.register(
    "openvino_int8",
    title="openvino int8 on cpu",
    tolerance=INT8_TOLERANCE,
    advice=INT8_ADVICE,
    needs=NEEDS,
)
def openvino_int8(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """OpenVINO on the CPU: the int8 file that onnxruntime_int8 runs, compiled for the batch size."""
    return opened("openvino_int8", int8_file(model, example, "openvino_int8"), example, threads)[0]


def opened(
    backend: str, content: bytes, example: Tensor, threads: int, **properties: Any
) -> tuple[Runner, list[dict[str, str]]]:
    """The file, compiled for each batch size when it first comes, and the layers that OpenVINO runs of the first.

    `properties` are OpenVINO's, beside those below; a layer has its `layerType`, `primitiveType`, `runtimePrecision`.
    """
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # what is not int8 would else be bfloat16 where the processor has units
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    first = _compiled(backend, content, example, settings | properties)
    requests = {len(example): first.create_infer_request()}

    def run(batch: Tensor) -> Any:
        if len(batch) not in requests:
            others = _compiled(backend, content, batch, settings | properties)
            requests[len(batch)] = others.create_infer_request()
        request, given = requests[len(batch)], batch.contiguous().numpy()
        # set by hand: `infer([given])` looks at its arguments for longer than a small network runs
        request.set_input_tensor(openvino.Tensor(given, shared_memory=True))
        outputs = [torch.from_numpy(output) for output in request.infer().values()]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    version = metadata.version("openvino")  # the module's own has the hash of a build in it
    layers = [
        {name: value.astype(str) for name, value in layer.get_rt_info().items()}
        for layer in first.get_runtime_model().get_ops()
    ]
    return Runner(backend, run, threads=threads, version=version, precision=_precision(layers)), layers


def _compiled(backend: str, content: bytes, batch: Tensor, settings: dict[str, Any]) -> Any:
    """What runs batches of that very size: for any size it would be slower code."""
    try:
        program = _core().read_model(content)
        program.reshape(list(batch.shape))
        return _core().compile_model(program, "CPU", settings)
    except RuntimeError as error:  # of C++, the lines of its source before the reason
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BootcampError(
            f"backend {backend}: OpenVINO can't take this network: {lines[-1].rstrip('.')}. Take another backend; "
            "--debug shows the whole story."
        ) from error


@functools.cache
def _core() -> Any:
    """One for the whole process.

    Each one's plugin gives the thread a stack for signals, and puts the one before back when it goes. Two that go in
    the order in which they came leave the thread with a stack that is there no more, for the next Ctrl-C to end in.
    """
    import openvino

    return openvino.Core()


def _precision(layers: list[dict[str, str]]) -> str | None:
    """What the products run in, by the layers that OpenVINO says it runs."""
    kinds = [layer["runtimePrecision"] for layer in layers if layer["layerType"] in _PRODUCTS]
    return precision_said(Counter(_PRECISIONS.get(kind, kind) for kind in kinds))
