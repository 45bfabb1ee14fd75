"""int8 in ONNX Runtime and OpenVINO: the networks that are hard to round, and what is said of those that can't be."""

import importlib.util
from collections import Counter
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import BACKENDS, lacking, prepare
from pruning_bootcamp.backends.files import INT8_TOLERANCE, float32_file, int8_file
from pruning_bootcamp.backends.precision import precision_said
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import MODELS
from pruning_bootcamp.tools.latency.graphs import relative_difference

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed: pip install '.[openvino]'"
)
INT8 = ["onnxruntime_int8", pytest.param("openvino_int8", marks=needs_openvino)]


class Attention(nn.Module):
    """Each token looks at itself and at those before it: a mask of minus infinity, added or put in place."""

    def __init__(self, filled: bool) -> None:
        super().__init__()
        self.filled = filled
        self.embedding, self.mix, self.head = nn.Embedding(20, 16), nn.Linear(16, 48), nn.Linear(16, 20)
        nn.init.normal_(self.mix.weight, std=1.0)  # so that the tokens are told apart

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.mix(self.embedding(tokens)).chunk(3, dim=-1)
        scores, ahead = q @ k.transpose(1, 2) / 4, torch.ones(6, 6, dtype=torch.bool).triu(1)
        if self.filled:
            scores = scores.masked_fill(ahead, float("-inf"))
        else:
            scores = scores + torch.zeros(6, 6).masked_fill(ahead, float("-inf"))
        return self.head(scores.softmax(-1) @ v)


def off(name: str, model: nn.Module, batch: Tensor) -> float:
    """How far the backend's outputs are from torch's, in the largest."""
    runner = prepare(name, model, batch, threads=1)
    with torch.inference_mode():
        return relative_difference([model.eval()(batch)], [runner(batch)])


@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("filled", [False, True])
def test_a_masked_attention_keeps_its_scores(name: str, filled: bool) -> None:
    torch.manual_seed(0)
    assert off(name, Attention(filled), torch.randint(0, 20, (2, 6))) < 0.1


@pytest.mark.parametrize("name", INT8)
def test_the_precision_that_ran_counts_products_that_stay_in_float32(name: str) -> None:
    runner = prepare(name, Attention(filled=True), torch.randint(0, 20, (2, 6)), threads=1)
    assert runner.precision is not None
    assert runner.precision.startswith("int8")
    plain = prepare(name, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), torch.randn(1, 3, 4, 4))
    assert plain.precision == "int8"


@pytest.mark.parametrize("name", ["onnxruntime_int8", "openvino_int8"])
@pytest.mark.parametrize("last", [nn.ReLU(), nn.ReLU6(), nn.Identity()])
def test_a_clipping_at_the_end_is_not_lost(name: str, last: nn.Module) -> None:
    if lacking(BACKENDS[name]):
        pytest.skip(f"{name} is not installed")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), last).eval()
    batch = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        wanted = model(batch)
    given = prepare(name, model, batch, 1)(batch)
    assert float((given - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
    assert isinstance(last, nn.Identity) or float(given.min()) >= 0


def test_a_precision_is_said_in_words() -> None:
    assert precision_said(Counter()) is None
    assert precision_said(Counter(int8=3)) == "int8"
    assert precision_said(Counter(float32=8, int8=17)) == "int8 (17 of 25 products; else float32)"


@pytest.mark.parametrize("name", INT8)
def test_a_shortcut_that_pads_channels_is_run(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS["cifar_resnet20"].function(classes=10).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(16, 3, 16, 16))
    batch = torch.randn(2, 3, 16, 16)
    assert 0 < off(name, model, batch) < INT8_TOLERANCE
    assert prepare(name, model, batch).precision == "int8", "of every product"


def test_the_int8_file_of_a_backend_is_the_same_every_time_and_an_example_of_zeros_will_do() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    before = torch.get_rng_state()
    first, again = (int8_file(model, torch.zeros(2, 3, 8, 8), "x") for _ in range(2))
    assert first == again
    assert torch.equal(before, torch.get_rng_state())
    held = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(first).graph.initializer
    }
    assert held["input_scale"] > 1e-3, "noise, not the zeros"
    assert len(first) < len(float32_file(model, torch.zeros(2, 3, 8, 8), "x"))


def test_what_is_too_far_off_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    monkeypatch.setitem(BACKENDS["onnxruntime_int8"].facts, "tolerance", 1e-9)
    with pytest.raises(BootcampError, match=r"onnxruntime_int8: its outputs differ.*--format int8 --verify.*another"):
        prepare("onnxruntime_int8", model, 9 * torch.randn(2, 3, 4, 4))


@needs_openvino
def test_openvino_takes_any_batch_and_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    asked: list[dict[str, Any]] = []
    compile_model = openvino.Core.compile_model

    def watched(core: Any, program: Any, device: str, settings: dict[str, Any]) -> Any:
        asked.append(settings)
        return compile_model(core, program, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", watched)
    model, batches = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval(), [2, 5, 2, 5]
    runner = prepare("openvino", model, torch.randn(2, 3, 8, 8), threads=1)
    for size in batches:
        batch = torch.randn(size, 3, 8, 8)
        with torch.inference_mode():
            torch.testing.assert_close(runner(batch), model(batch), atol=1e-5, rtol=1e-5)
    assert len(asked) == 2, "each size is compiled once"
    for settings in asked:
        assert (settings["INFERENCE_PRECISION_HINT"], settings["INFERENCE_NUM_THREADS"]) == ("f32", 1)


@needs_openvino
def test_a_network_that_openvino_cannot_take_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    def refuses(*_: object) -> Any:
        raise RuntimeError("Exception from src/core.cpp:117:\nArgument shapes are inconsistent.\n\n")

    monkeypatch.setattr(openvino.Core, "compile_model", refuses)
    with pytest.raises(
        BootcampError, match=r"openvino: OpenVINO can't take .*: Argument shapes are inconsistent\. Take"
    ):
        prepare("openvino", nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))
