"""What is timed on which device, what launch-bound means, what widths are advised; CUDA graphs where they are."""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.ways import Way, launch_bound_ways, ways_to_time
from pruning_bootcamp.flow.steps.ways import Alternatives, Candidates, pair_result, timed_ways
from pruning_bootcamp.tools.latency.advice import CutWidths, cut_widths, launch_bound_batches
from pruning_bootcamp.tools.latency.graphs import CapturedPass, capture, relative_difference

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found")


@pytest.mark.parametrize("more", [[], ["openvino"]])
def test_a_cpu_is_timed_in_every_runtime_that_is_there_and_cuda_also_on_a_full_batch_and_as_a_graph(
    more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    there = found("torch") if more else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there if name == "openvino" else found(name))
    assert [str(way) for way in ways_to_time("cpu")] == [
        f"{backend}, batch {batch}"
        for batch in (1, 16)
        for backend in (
            *("torch", "torch channels_last", "onnxruntime on cpu"),
            *(f"{name} on cpu" for name in more),
        )
    ]
    others = [str(way) for way in ways_to_time("cuda") if way not in ways_to_time("cpu")]
    assert others == ["torch CUDA graph, batch 1", "torch, batch 256", "torch channels_last, batch 256"]
    assert ways_to_time("mps") == ways_to_time("cpu")


def test_what_skips_zeros_is_timed_for_networks_that_have_them() -> None:
    layer = nn.Linear(4, 4)
    assert ways_to_time("cpu", layer) == ways_to_time("cpu")
    with torch.no_grad():
        layer.weight[:2] = 0
    others = [str(way) for way in ways_to_time("cpu", layer) if way not in ways_to_time("cpu")]
    assert others == ["torch CSR, batch 1", "torch CSR, batch 16"]
    assert ways_to_time("cuda", layer) == ways_to_time("cuda")


def test_a_full_batch_is_halved_down_to_what_is_timed_anyway() -> None:
    batches, way = [], Way("torch", 256)
    while way is not None:
        batches.append(way.batch)
        way = way.smaller()
    assert batches == [256, 128, 64, 32]


@pytest.mark.parametrize(
    ("milliseconds", "bound"),
    [
        ({1: 1.0, 16: 1.02}, [1, 16]),  # as on an H200: eager, 1.00x whatever is cut
        ({1: 1.0, 16: 1.5, 256: 9.0}, [1, 16]),
        ({1: 1.0, 16: 1.2, 256: 1.4}, [1, 16, 256]),
        ({1: 1.0, 16: 3.0, 256: 40.0}, []),
        ({1: 1.0}, []),
        ({16: 1.0, 256: 1.0}, []),
        ({}, []),
    ],
)
def test_launch_bound_is_where_many_images_take_as_long_as_one(
    milliseconds: dict[int, float], bound: list[int]
) -> None:
    assert launch_bound_batches(milliseconds) == bound


def test_only_eager_runs_on_a_gpu_are_launch_bound() -> None:
    times: dict[Way, float] = {
        Way("torch", 1): 1.0,
        Way("torch", 16): 1.0,
        Way("channels_last", 1): 1.0,
        Way("channels_last", 16): 4.0,
        Way("cuda_graph", 1): 0.1,
        Way("onnxruntime", 1): 1.0,
        Way("onnxruntime", 16): 1.0,
    }
    assert launch_bound_ways(times, "cuda") == [Way("torch", 1), Way("torch", 16)]
    assert launch_bound_ways(times, "cpu") == []


def test_widths_that_were_cut_are_counted_and_only_those() -> None:
    before = {"conv1": 64, "conv2": 64, "conv3": 20, "fc": 10, "bn": None}
    assert cut_widths(before, {"conv1": 44, "conv2": 32, "conv3": 20, "fc": 10, "bn": None}) == CutWidths(2, 1)
    even = cut_widths(before, {"conv1": 40, "conv2": 32, "conv3": 20, "fc": 10, "bn": None})
    assert even == CutWidths(2, 0), "ten classes are nobody's to round"
    assert even.advice is None
    assert cut_widths(before, before).advice is None
    advice = CutWidths(5, 3).advice or ""
    assert advice.startswith("3 of the 5 layers that were cut have a width that is no multiple of 8")
    assert "--round-to 8" in advice


def short_of_memory(most: int) -> Callable[[Way], Candidates | str]:
    """Pairs that run out of the device's memory above so many images."""

    def run(images: Tensor) -> Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory at {len(images)}")
        return images

    def pair_for(way: Way) -> Candidates | str:
        if way.backend == "cuda_graph":
            return "pruned: operation not permitted when stream is capturing"
        images = torch.zeros(way.batch, 2)
        return dict.fromkeys(("baseline", "pruned"), (run, images))

    return pair_for


def timed(asked: list[Way], most: int, monkeypatch: pytest.MonkeyPatch) -> Alternatives:
    def quickly(candidates: Candidates, **_: object) -> object:
        return compare(candidates, runs=3, min_seconds=0.0, warmup_seconds=0.0)

    from pruning_bootcamp.flow.steps import ways
    from pruning_bootcamp.tools.latency import compare_latencies as compare

    monkeypatch.setattr(ways, "compare_latencies", quickly)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return timed_ways(asked, short_of_memory(most), CPU, runs=3)


def test_where_memory_is_short_the_next_smaller_batch_is_timed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed([Way("torch", 1), Way("torch", 256), Way("cuda_graph", 1)], 64, monkeypatch)
    assert list(found.pairs) == ["torch, batch 1", "torch, batch 64"]
    assert found.pairs["torch, batch 64"]["pruned"].batch_size == 64
    assert found.notes == [
        "torch, batch 256: the device's memory is too small; batch 128 instead",
        "torch, batch 128: the device's memory is too small; batch 64 instead",
        "torch CUDA graph, batch 1: not timed (pruned: operation not permitted when stream is capturing)",
    ]
    figures = pair_result(found.pairs["torch, batch 64"])
    assert figures.pruned == found.pairs["torch, batch 64"]["pruned"].as_result()
    assert figures.paired is not None
    assert figures.paired.verdict == "may be noise", "three pairs decide nothing"


def test_what_fits_at_no_batch_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed([Way("torch", 1), Way("torch", 256)], 16, monkeypatch)
    assert list(found.pairs) == ["torch, batch 1"]
    assert found.notes[-1] == "torch, batch 32: the device's memory is too small; not timed"


def test_outputs_are_compared_relative_to_the_largest() -> None:
    a = torch.tensor([[100.0, -200.0]])
    assert relative_difference([a], [a + 1.0]) == pytest.approx(1 / 200)
    assert relative_difference([a], [a.clone()]) == 0.0
    assert relative_difference([a / 1000], [a / 1000 + 0.5]) == pytest.approx(0.5), "at least 1"
    assert relative_difference([a], [a[:, :1]]) == float("inf")
    assert relative_difference([a], [a, a]) == float("inf")
    assert not relative_difference([a], [a * float("nan")]) <= 1.0


def test_without_a_device_a_graph_is_a_reason_and_no_crash() -> None:
    assert capture(nn.Linear(4, 2), torch.zeros(1, 4)) == "the network is on cpu, and only CUDA records graphs"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


class Reads(Block):
    """Its next step depends on a value, which no graph can record."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if float(x.sum()) > 0 else 1.0)


@pytest.mark.gpu
@needs_cuda
def test_a_recorded_pass_gives_the_eager_outputs_on_new_images() -> None:
    model = Block().cuda().eval()
    recorded = capture(model, torch.randn(1, 3, 8, 8))
    assert isinstance(recorded, CapturedPass), recorded
    for _ in range(3):
        images = torch.randn(1, 3, 8, 8, device="cuda")
        with torch.no_grad():
            assert relative_difference([model(images)], [recorded(images)]) < 1e-4  # type: ignore[list-item]


@pytest.mark.gpu
@needs_cuda
def test_a_pass_that_reads_a_value_is_not_recorded_and_the_device_goes_on() -> None:
    model, stream = Reads().cuda(), torch.cuda.current_stream()
    reason = capture(model, torch.randn(1, 3, 8, 8))
    assert isinstance(reason, str)
    assert model.training, "modes are left as found"
    assert torch.cuda.current_stream() == stream
    torch.cuda.synchronize()
    assert torch.ones(3, device="cuda").sum().item() == 3.0
    assert isinstance(capture(Block().cuda(), torch.randn(1, 3, 8, 8)), CapturedPass)
