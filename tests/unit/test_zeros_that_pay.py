"""Zeros that pay: what is skipped where that is quicker, by a clock that the tests set; dense everywhere else."""

import importlib.util
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import Runner, csr, lacking, openvino_zeros, prepare, zeros
from pruning_bootcamp.backends.csr import CsrLinear, csr_product, skipping_zeros, with_csr
from pruning_bootcamp.backends.files import int8_file
from pruning_bootcamp.backends.openvino_zeros import quickest, rates_for, zeros_of
from pruning_bootcamp.backends.zeros import zeros_said
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters import export_model
from pruning_bootcamp.exporters.torchscript_sparse import write_torchscript_sparse
from pruning_bootcamp.runs import read_yaml
from pruning_bootcamp.tools.int8 import quantized_weights
from pruning_bootcamp.tools.latency import LatencyStats
from pruning_bootcamp.tools.latency.clock import compare_latencies

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed: pip install '.[openvino]'"
)


def emptied(layer: nn.Linear, share: float) -> nn.Linear:
    """The layer with so many of its weights zero, anywhere."""
    with torch.no_grad():
        chosen = torch.randperm(layer.weight.numel())[: round(share * layer.weight.numel())]
        layer.weight.view(-1)[chosen] = 0
    return layer


def network(*shares: float, width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [module for share in shares for module in (emptied(nn.Linear(width, width), share), nn.ReLU())]
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[float]]]:
    """Races end as told: each takes the next number, the time of `sparse` over dense's; 0 stands for noise about 1."""
    left: list[float] = []

    def race(candidates: Mapping[str, Any], **_: Any) -> dict[str, LatencyStats]:
        stats = compare_latencies(candidates, runs=30, min_seconds=0, warmup_runs=1, warmup_seconds=0)
        ratio = left.pop(0)
        times = [ratio or 1 + 0.1 * (-1) ** place for place in range(30)]
        return {name: replace(one, rounds_ms=(1.0,) * 30) for name, one in stats.items()} | {
            "sparse": replace(stats["sparse"], rounds_ms=tuple(times))
        }

    def told(*ratios: float) -> list[float]:
        left[:] = ratios
        return left

    monkeypatch.setattr(zeros, "compare_latencies", race)
    yield told
    assert not left, "every race was run"


@pytest.mark.parametrize("shape", [(8,), (1, 8), (5, 8), (2, 3, 8), (1, 1, 8)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("product", [csr_product, torch.jit.script(csr_product)])
def test_a_csr_layer_gives_what_the_dense_one_gives(shape: tuple[int, ...], bias: bool, product: csr.Product) -> None:
    layer = emptied(nn.Linear(8, 6, bias=bias), 0.6)
    sparse = CsrLinear(layer, product)
    x = torch.randn(shape)
    with torch.inference_mode():
        found, wanted = sparse(x), layer(x)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous()
    assert torch.equal(sparse.weight, layer.weight)
    assert sparse.csr.values().numel() == layer.weight.count_nonzero()


def test_layers_that_are_quicker_skip_their_zeros_and_the_others_stay_dense(clock: Callable[..., Any]) -> None:
    model, x = network(0.9, 0.3, 0.6, 0.5), torch.randn(4, 64)
    clock(0.5, 2.0, 0, 0.8)
    found, note = skipping_zeros(model, [x])
    assert [type(module) for module in found] == [CsrLinear, nn.ReLU, *(3 * [nn.Linear, nn.ReLU])]
    assert [type(module) for module in model] == 4 * [nn.Linear, nn.ReLU]
    torch.testing.assert_close(found(x), model(x))
    assert found[2].weight is model[2].weight
    assert note == (
        "1 of 4 linear layers as CSR: 0 (90.0% zeros) 2.00x (95%: 2.00 to 2.00, n 30); dense: 4 (60.0% zeros) 0.50x "
        "(95%: 0.50 to 0.50, n 30), 6 (50.0% zeros) 1.00x (95%: 0.91 to 1.11, n 30); the whole network 1.25x (95%: "
        "1.25 to 1.25, n 30)"
    )


@pytest.mark.parametrize(
    ("shares", "times", "said"),
    [
        ((0.9, 0.8), (1.5, 0), r"dense: no linear layer is quicker as CSR: 0 \(90\.0% zeros\) 0\.67x .*, 2 \(80"),
        ((0.9,), (0.5, 1.1), r"dense: as CSR 0 \(90\.0% zeros\) 2\.00x .*, but the whole network 0\.91x \(95%"),
        ((0.9,), (0.5, 0), r"dense: as CSR 0 .*, but the whole network 1\.00x \(95%: 0\.91 to 1\.11"),
        ((0.3, 0.4), (), r"dense: no linear layer with half of its weights zero \(the most: 40\.0% in 2\)"),
        ((), (), "dense: no linear layer that runs by itself"),
    ],
)
def test_never_slower_than_dense_and_why_is_said(
    clock: Callable[..., Any], shares: tuple[float, ...], times: tuple[float, ...], said: str
) -> None:
    model = network(*shares)
    clock(*times)
    found, note = skipping_zeros(model, [torch.randn(2, 64)])
    assert found is model
    assert re.match(said, note), note


def test_a_layer_must_be_quicker_at_every_batch_size(clock: Callable[..., Any]) -> None:
    clock(0.5, 0.9, 0.5, 1.2, 0.8, 0.7)
    _, note = skipping_zeros(network(0.9, 0.9), [torch.randn(1, 64), torch.randn(16, 64)])
    assert note.startswith("1 of 2 linear layers as CSR: 0 (90.0% zeros) 2.00x")
    assert note.endswith("n 30) at batch 1 and 1.43x (95%: 1.43 to 1.43, n 30) at batch 16")


class Shared(nn.Module):
    """One layer under two names, called three times in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = emptied(nn.Linear(64, 64), 0.9)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.first(x[:1])


def test_a_layer_of_two_names_is_one_layer(clock: Callable[..., Any]) -> None:
    model, x = Shared().eval().requires_grad_(False), torch.randn(3, 64)
    clock(0.5, 0.5)
    found, note = skipping_zeros(model, [x])
    assert found.first is found.second
    assert isinstance(found.first, CsrLinear)
    torch.testing.assert_close(found(x), model(x))
    assert note.startswith("1 of 1 linear layers")


def test_a_network_that_is_one_layer(clock: Callable[..., Any]) -> None:
    clock(0.5, 0.5)
    layer = emptied(nn.Linear(64, 64), 0.9).eval().requires_grad_(False)
    found, note = skipping_zeros(layer, [torch.randn(3, 64)])
    assert isinstance(found, CsrLinear)
    assert "the only one (90.0% zeros)" in note


def test_one_fused_call_reads_dense_weights_and_the_attention_stays(clock: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(64, 4, 64, batch_first=True).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            emptied(layer, 0.9)
    x = torch.randn(2, 5, 64)
    clock(0.5, 0.5, 1.5)
    found, note = skipping_zeros(model, [x])
    assert found is model
    assert note.startswith("dense: as CSR linear1 (90.0% zeros)"), "not what attention reads without calling"
    sparse = with_csr(model, ["linear1"])
    torch.testing.assert_close(sparse(x), model(x), atol=1e-5, rtol=1e-5)


def test_the_backend_measures_for_itself_and_is_as_quick_as_dense() -> None:
    model, x = network(0.98, 0.0, width=768), torch.randn(16, 768)
    runner = prepare("torch_sparse", model, x, threads=1)
    assert runner.note is not None
    assert runner.note.startswith("1 of 2 linear layers as CSR: 0 (98.0% zeros)"), "ten times fewer products and more"
    with torch.inference_mode():
        torch.testing.assert_close(runner(x), model(x), atol=1e-5, rtol=1e-5)
    assert prepare("torch_sparse", network(0.0), torch.randn(1, 64)).note == (
        "dense: no linear layer with half of its weights zero (the most: 0.0% in 0)"
    )


def test_the_file_of_torchscript_sparse_skips_zeros_too(clock: Callable[..., Any], tmp_path: Path) -> None:
    model = network(0.9, 0.2)
    clock(0.5, 0.5, 0.8, 0.8)
    report = export_model(model, torch.zeros(1, 64), tmp_path, format="torchscript_sparse")
    assert report.verified
    assert report.relative_difference < 1e-5
    assert "1 of 2 linear layers as CSR: 0 (90.0% zeros)" in report.notes[0]
    layouts = {name: one.layout for name, one in torch.jit.load(report.path).state_dict().items()}
    assert layouts == {
        "0.csr": torch.sparse_csr,
        **dict.fromkeys(("0.bias", "2.weight", "2.bias"), torch.strided),
    }


class OfOne(nn.Module):
    """A network that takes one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = emptied(nn.Linear(64, 8), 0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(1, 64))


def test_a_network_that_fixes_its_batch_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match="this network can't be written as TorchScript with CSR: shape "):
        write_torchscript_sparse(OfOne().eval(), torch.zeros(1, 64), tmp_path / "model_sparse.pt")


# OpenVINO: its own graph says which layers skip their zeros; none do without AMX, so here they are made up


def ran(*kinds: str) -> list[dict[str, str]]:
    return [{"layerType": "FullyConnected", "primitiveType": kind} for kind in kinds]


AMX, SKIPS = "brgemm_avx512_amx_I8", "brgemm_avx512_amx_sparse_I8"
DENSE = Runner("openvino_int8_sparse", lambda x: x, threads=1, precision="int8")


def settings(skipped: Mapping[float, int]) -> Callable[[float], openvino_zeros.Opened]:
    """Opens at a setting with so many layers that skip, of two."""

    def at(rate: float) -> openvino_zeros.Opened:
        return replace(DENSE, version=f"at {rate}"), ran(*skipped[rate] * [SKIPS], *(2 - skipped[rate]) * [AMX])

    return at


def test_settings_are_just_below_the_shares_that_the_layers_have() -> None:
    assert rates_for([0.1, 0.4999]) == []
    assert rates_for([0.9, 0.9003, 0.8, 0.3]) == [0.799, 0.899]
    many = rates_for([0.5 + place / 100 for place in range(50)])
    assert len(many) == 4
    assert (many[0], many[-1]) == (0.499, 0.989)


def test_openvino_skips_zeros_where_that_is_quicker(clock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 4)
    clock(0.7)
    found = quickest(DENSE, [0.9, 0.9], settings({0.899: 2}), x)
    assert found.version == "at 0.899"
    assert found.note == (
        "2 of 2 linear layers (90.0% zeros) skip zeros at CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE 0.899: 1.43x "
        "(95%: 1.43 to 1.43, n 30) of dense"
    )

    def race(candidates: Mapping[str, Any], **_: Any) -> dict[str, LatencyStats]:
        stats = compare_latencies(candidates, runs=3, min_seconds=0, warmup_runs=0, warmup_seconds=0)
        assert set(stats) == {"1", "2"}
        return {name: replace(one, median_ms=float(name)) for name, one in stats.items()}

    monkeypatch.setattr(openvino_zeros, "compare_latencies", race)
    clock(0.7)
    found = quickest(DENSE, [0.9, 0.6], settings({0.899: 1, 0.599: 2}), x)
    assert found.version == "at 0.899", "the quickest of two settings, raced against dense anew"


@pytest.mark.parametrize("time", [1.1, 0])
def test_openvino_stays_dense_where_no_setting_is_quicker(clock: Callable[..., Any], time: float) -> None:
    clock(time)
    found = quickest(DENSE, [0.9, 0.9], settings({0.899: 2}), torch.randn(2, 4))
    assert found.version is None
    assert found.note is not None
    assert found.note.startswith("dense: no other setting is quicker for certain; 2 of 2 linear layers")


@pytest.mark.parametrize(
    ("amx", "why"),
    [
        (False, "a CPU has no AMX, which it needs"),
        (None, "a CPU may have no AMX, which it needs"),
        (True, "it takes layers whose sides are multiples of 64 (a CPU has AMX)"),
    ],
)
def test_what_openvino_lacks_is_said(
    clock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, amx: bool | None, why: str
) -> None:
    monkeypatch.setattr(openvino_zeros, "has_amx", lambda: amx)
    monkeypatch.setattr(openvino_zeros, "processor_name", lambda _: "a CPU")
    clock()
    found = quickest(DENSE, [0.05, 0.9], settings({0.899: 0}), torch.randn(2, 4))
    assert found.note == f"dense: OpenVINO skips zeros in none of 2 linear layers (5.0% to 90.0% zeros) here: {why}"
    few = quickest(DENSE, [0.05, 0.3], settings({}), torch.randn(2, 4))
    assert few.note == "dense: no linear layer with half of its weights zero (5.0% to 30.0% zeros)"
    none = quickest(DENSE, [], settings({}), torch.randn(2, 4))
    assert none.note == "dense: no linear layer in int8, and OpenVINO skips the zeros of no other"


@needs_openvino
def test_openvino_is_asked_at_the_shares_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    opened = openvino_zeros.opened

    def watched(*given: Any, **properties: Any) -> openvino_zeros.Opened:
        asked.append(properties.get("CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"))
        return opened(*given, **properties)

    monkeypatch.setattr(openvino_zeros, "opened", watched)
    model, x = network(0.9, 0.1), torch.randn(2, 64)
    runner = prepare("openvino_int8_sparse", model, x, threads=1)
    share = max(zeros_of(int8_file(model, x, "x")))
    assert asked == [None, rates_for([share])[0]]
    assert runner.note is not None
    assert runner.precision == "int8"


@pytest.mark.parametrize("bias", [True, False])
def test_zeros_are_zeros_in_the_int8_file_and_zero_is_their_value(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(emptied(nn.Linear(64, 48, bias=bias), 0.9), nn.ReLU(), emptied(nn.Linear(48, 8), 0.5)))
    content = int8_file(model, torch.randn(2, 64), "x")
    proto = onnx.load_from_string(content)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found = quantized_weights(proto)
    assert len(found) == 2
    for layer, one in zip((model[0], model[2]), found, strict=True):
        given = layer.weight.detach().numpy()
        integers = one.integers if one.integers.shape == given.shape else one.integers.T
        assert not integers[given == 0].any()
    points = [
        held[node.input[2]]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and held.get(node.input[0], np.zeros(0)).dtype == np.int8
    ]
    assert len(points) == 2
    assert not any(point.any() for point in points)
    assert zeros_of(content) == [pytest.approx(0.9, abs=0.02), pytest.approx(0.5, abs=0.02)]
    assert zeros_of(content)[0] >= 0.9


CPU = torch.device("cpu")


@pytest.fixture
def everything_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "has_amx", lambda: True)
    monkeypatch.setattr(zeros, "lacking", lambda entry, device: [])


@pytest.mark.usefixtures("everything_is_here")
def test_what_zeros_would_need_is_said() -> None:
    assert zeros_said(network(0.4), ["torch"], CPU) is None
    plain = zeros_said(network(0.9), ["torch"], CPU)
    assert plain == (
        "! Zeros save time only where something skips them: 90.0% in linear layers; --backend "
        "torch_sparse,openvino_int8_sparse skips them where that is quicker. See docs/time.md, Zeros that pay."
    )
    both = ["torch_sparse", "openvino_int8_sparse"]
    assert "--backend" not in str(zeros_said(network(0.9), both, CPU))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 8))
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[2].weight.view(8, 4, 4)[:, :, 1:3] = 0
    said = str(zeros_said(model, both, CPU))
    assert "75.0% in convolutions, which no backend skips. 50.0% in linear layers." in said
    assert "1 of 1 linear layers are 2:4. That takes an NVIDIA GPU" in said


@pytest.mark.parametrize("norm", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.spectral_norm])
def test_weights_that_are_computed_are_no_trouble(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), norm(nn.Linear(8, 8)))
    assert zeros_said(model, (), CPU) is None
    assert not zeros.has_empty_layers(model)


@pytest.mark.usefixtures("everything_is_here")
def test_only_a_backend_that_can_skip_zeros_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "has_amx", lambda: None)
    assert "--backend torch_sparse,openvino_int8_sparse skips" in str(zeros_said(network(0.9), ["torch"], CPU))
    monkeypatch.setattr(zeros, "has_amx", lambda: False)
    assert "--backend torch_sparse skips" in str(zeros_said(network(0.9), ["torch"], CPU))
    monkeypatch.setattr(zeros, "lacking", lacking)
    assert "90.0% in linear layers, which no backend skips here. See" in str(
        zeros_said(network(0.9), ["torch"], torch.device("cuda"))
    )
    monkeypatch.setattr(zeros, "has_amx", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "--backend torch_sparse skips" in str(zeros_said(network(0.9), ["torch"], CPU))


REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_published_table_is_of_its_figures_and_each_number_of_threads_has_its_own() -> None:
    report = runpy.run_path(str(REPOSITORY / "benchmarks" / "sparse_layers.py"), run_name="sparse_layers")["report"]
    published = REPOSITORY / "results" / "published" / "sparse_layers"
    rows = read_yaml(published / "metrics.yaml")["timings"]
    assert report(rows) == (published / "report.md").read_text()
    _, one, two = report([*rows, *({**row, "threads": 2} for row in rows)]).split("\n## ")
    headings = [section.splitlines()[0] for section in (one, two)]
    assert [heading.rpartition(", ")[2] for heading in headings] == ["1 thread(s)", "2 thread(s)"]
    assert one.count("\n| 6 x 2048") == two.count("\n| 6 x 2048") == len(rows)
