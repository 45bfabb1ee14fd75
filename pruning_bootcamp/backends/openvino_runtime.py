"""OpenVINO on the CPU: of a network, in float32 or int8."""

from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS, Needs
from pruning_bootcamp.backends.eager import SMALL_BATCHES
from pruning_bootcamp.backends.files import INT8_ADVICE, INT8_TOLERANCE, float32_file, int8_file
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.latency.runner import Runner

_NEEDS = Needs(module="openvino", extra="openvino")


@BACKENDS.register(
    "openvino",
    title="openvino on cpu",
    tolerance=1e-3,
    needs=_NEEDS,
    profiled=lambda device_type: SMALL_BATCHES,
)
def openvino(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """OpenVINO on the CPU: the network as an ONNX file, compiled for the batch size, in float32 throughout."""
    return _opened("openvino", float32_file(model, example, "openvino"), example, threads)


@BACKENDS.register(
    "openvino_int8",
    title="openvino int8 on cpu",
    tolerance=INT8_TOLERANCE,
    advice=INT8_ADVICE,
    needs=_NEEDS,
)
def openvino_int8(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """OpenVINO on the CPU: the int8 file that onnxruntime_int8 runs, compiled for the batch size."""
    return _opened("openvino_int8", int8_file(model, example, "openvino_int8"), example, threads)


def _opened(backend: str, content: bytes, example: Tensor, threads: int, **properties: Any) -> Runner:
    """The file, compiled for each batch size when it first comes; `properties` are OpenVINO's, beside those below."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # what is not int8 would else be bfloat16 where the processor has units
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    compiled = {len(example): _compiled(backend, content, example, settings | properties)}

    def run(batch: Tensor) -> Any:
        if len(batch) not in compiled:
            compiled[len(batch)] = _compiled(backend, content, batch, settings | properties)
        found = compiled[len(batch)].infer([batch.numpy()], share_inputs=True)
        outputs = [torch.from_numpy(output) for output in found.values()]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return Runner(backend, run, threads=threads)


def _compiled(backend: str, content: bytes, batch: Tensor, settings: dict[str, Any]) -> Any:
    """What infers batches of that very size: a free one is compiled to slower code."""
    import openvino

    try:
        core = openvino.Core()
        program = core.read_model(content)
        program.reshape(list(batch.shape))
        return core.compile_model(program, "CPU", settings).create_infer_request()
    except RuntimeError as error:  # of C++, the lines of its source before the reason
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BootcampError(
            f"backend {backend}: OpenVINO can't take this network: {lines[-1].rstrip('.')}. Take another backend; "
            "--debug shows the whole story."
        ) from error
