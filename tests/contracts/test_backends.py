"""What every backend promises: torch's outputs within its tolerance, on the threads asked for, timed in turn."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import BACKENDS, Needs, Runner, lacking, prepare
from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.sections import ProfileSettings
from pruning_bootcamp.listing import show
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.preflight import check
from pruning_bootcamp.registry import Entry
from pruning_bootcamp.results import Latency
from pruning_bootcamp.runtime import processor_name
from pruning_bootcamp.schema import field_docs
from pruning_bootcamp.tools.latency import compare_latencies
from pruning_bootcamp.tools.latency.graphs import relative_difference

CPU = torch.device("cpu")
HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMOKE = Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml"
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"{name} {'; '.join(missing)}"))
    for name, missing in ((name, lacking(BACKENDS[name], HERE)) for name in BACKENDS)
]


class Tokens(nn.Module):
    """Whole numbers in, scores out: an embedding, attention with a mask, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.mix, self.norm, self.head = nn.Linear(16, 48), nn.LayerNorm(16), nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.mix(hidden).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + mixed.transpose(1, 2).flatten(2)
        return self.head(self.norm(hidden))


def images() -> nn.Module:
    """A convolution with batch norm whose running statistics are unlike a fresh one's, left in training mode."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)),
    ).train()
    with torch.no_grad():
        for _ in range(3):
            model(2 * torch.randn(16, 3, 8, 8) + 1)
    return model


CASES: dict[str, tuple[Any, Any]] = {
    "images": (images, lambda size: torch.randn(size, 3, 8, 8)),
    "tokens": (Tokens, lambda size: torch.randint(0, 20, (size, 6))),
}


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def brought(**facts: Any) -> Any:
    return Entry("x", lambda: None, facts)


def test_there_are_backends_to_test() -> None:
    ready = {name for name in BACKENDS if not lacking(BACKENDS[name], HERE)}
    assert {"torch", "channels_last", "compile", "onnxruntime", "onnxruntime_int8", "torch_sparse"} <= ready


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_torchs_for_every_batch_and_the_network_stays_as_it_is(name: str, case: str) -> None:
    make, draw = CASES[case]
    model = make().to(HERE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    tolerance = BACKENDS[name].facts["tolerance"]
    runner = None
    for size in (1, 2, 16):
        batch = draw(size).to(HERE)
        if runner is None or BACKENDS[name].facts.get("one_shape"):
            runner = prepare(name, model, batch)
        found = runner(batch)
        assert [module.training for module in model.modules()] == modes
        model.eval()
        with torch.inference_mode():
            wanted = model(batch)
        model.train()
        assert found.dtype == torch.float32
        assert relative_difference([wanted.cpu()], [found.cpu()]) <= tolerance
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_threads_are_as_asked_while_it_runs_and_as_before_afterwards(name: str) -> None:
    before = torch.get_num_threads()
    seen = []

    class Counts(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                seen.append(torch.get_num_threads())
            return super().forward(x)

    example = torch.ones(2, 3, device=HERE)
    runner = prepare(name, Counts(3, 4).to(HERE), example, threads=before + 1)
    assert torch.get_num_threads() == before
    assert runner.threads == before + 1
    runner(example)
    stats = compare_latencies({"only": (runner, example)}, runs=3, min_seconds=0.0, warmup_seconds=0.0)
    assert stats["only"].threads == before + 1
    assert torch.get_num_threads() == before
    if name == "torch":
        assert seen[-1] == before + 1


@pytest.mark.parametrize("name", NAMES)
def test_two_networks_are_timed_in_turn_with_what_ran_them(name: str) -> None:
    example = torch.randn(2, 3, 8, 8, device=HERE)
    runners = {one: prepare(name, images().to(HERE), example) for one in ("baseline", "pruned")}
    found = compare_latencies(
        {one: (runner, example) for one, runner in runners.items()}, runs=5, min_seconds=0.0, warmup_seconds=0.0
    )
    for one, stats in found.items():
        assert (stats.backend, stats.batch_size, stats.n) == (name, 2, 5)
        assert stats.device == str(runners[one].device)
        assert stats.processor == processor_name(runners[one].device)
        assert stats.version
        assert stats.precision, "what ran says in which precision"
        assert stats.precision.startswith("int8") is ("int8" in name)
        kept = from_plain(Latency, to_plain(stats.as_result()))
        assert kept == stats.as_result()
        assert f"{name} {stats.version} in {stats.precision} on {stats.device} ({stats.processor})" in kept.way
        assert bool(stats.note) is name.endswith("sparse"), "what chooses says what it chose"
        assert stats.median_ms > 0
    assert found["pruned"].ratio_to(found["baseline"]) is not None, "the same rounds"


@pytest.mark.parametrize("name", list(BACKENDS))
def test_the_facts_are_there(name: str) -> None:
    entry = BACKENDS[name]
    assert 0 <= entry.facts["tolerance"] < 1
    assert isinstance(entry.facts.get("needs", Needs()), Needs)
    assert not entry.settings, "a backend has no settings: a config names it by its name alone"
    assert name in field_docs(ProfileSettings)["backend"], "--help says every backend of ours"


def test_what_is_missing_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacking(brought(needs=Needs(module="no_such_module", extra="openvino"))) == [
        "needs no_such_module, which is not installed: pip install 'pruning-bootcamp[openvino]'"
    ]
    assert lacking(brought(needs=Needs(device="cuda")), CPU) == [
        "runs on cuda only, and the device is cpu: choose --device cuda"
    ]
    assert lacking(brought(needs=Needs(device="cuda")), torch.device("cuda", 1)) == []
    assert lacking(brought(needs=("grad",))) == []

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(BootcampError, match=r"backend onnxruntime: needs onnxruntime, .* pip install onnxruntime\."):
        prepare("onnxruntime", images(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(BootcampError, match=r"profile\.backend: onnxruntime needs onnxruntime, which is not installed"):
        check(load(SMOKE, ["profile.backend=onnxruntime"]), "profile", "config")


def test_the_list_says_what_is_missing_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    monkeypatch.setattr("pruning_bootcamp.listing.choose_device", lambda: (CPU, "asked for"))
    show("backends")
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in BACKENDS)
    assert "needs onnxruntime" in said
    assert "runs on cuda only" in said


def test_every_problem_with_several_backends_is_said_at_once() -> None:
    asked = ["profile.backend=onnxruntim, torch,cuda_graph,opnvino_int8", "device=cpu"]
    with pytest.raises(BootcampError) as caught:
        check(load(SMOKE, asked), "profile", "config")
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 3
    assert "'onnxruntim'. Did you mean 'onnxruntime'?" in said[0]
    assert "cuda_graph runs on cuda only" in said[1]
    assert "'opnvino_int8'. Did you mean 'openvino_int8'?" in said[2]
    check(load(SMOKE, ["profile.backend=torch, onnxruntime"]), "eval", "config")


def test_preflight_knows_the_names_and_the_device() -> None:
    with pytest.raises(BootcampError, match=r"profile\.backend: .*'onnxruntim'\. Did you mean 'onnxruntime'\?"):
        check(load(SMOKE, ["profile.backend=onnxruntim"]), "eval", "config")
    with pytest.raises(BootcampError, match=r"profile\.backend: cuda_graph runs on cuda only, and the device is cpu"):
        check(load(SMOKE, ["profile.backend=cuda_graph", "device=cpu"]), "validate", "config")


class Fixed(nn.Module):
    """Of one batch size, and with a value that decides."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 4) * (2 if float(x.sum()) > 0 else 1)


def test_a_network_that_a_backend_cannot_take_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    example = torch.ones(2, 2, 2)
    assert prepare("torch", Fixed(), example)(example).shape == (2, 4)
    with pytest.raises(
        BootcampError, match=r"backend onnxruntime: this network can't be written as ONNX.*another backend"
    ):
        prepare("onnxruntime", Fixed(), example)

    def refuses(model: nn.Module) -> Any:
        def run(batch: Tensor) -> Tensor:
            raise RuntimeError("No working C++ compiler found\nand a long story")

        return run

    monkeypatch.setattr(torch, "compile", refuses)
    with pytest.raises(BootcampError, match=r"compile: .* here: No working C\+\+ compiler found \(RuntimeError\)"):
        prepare("compile", Fixed(), example)


PLUGIN = """
import torch
from pruning_bootcamp.backends import Runner
from pruning_bootcamp.plugins import facts


@facts(tolerance=1e-6, title="in halves")
def halves(model, example, threads):
    \"\"\"The batch in two parts.\"\"\"
    return Runner("halves", lambda batch: torch.cat([model(part) for part in batch.split(1)]), example.device, threads)


@facts(tolerance=1e-6)
def wrong(model, example, threads):
    \"\"\"Another network.\"\"\"
    return Runner("wrong", lambda batch: model(batch) + 1, example.device, threads)


@facts(tolerance=1e-6)
def nothing(model, example, threads):
    \"\"\"No runner.\"\"\"
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "mine.py"


def test_a_backend_of_the_users_own_is_held_to_the_contract(plugin: Path) -> None:
    example = torch.randn(3, 3, 8, 8)
    model = images().eval()
    runner = prepare(f"{plugin}:halves", model, example)
    assert isinstance(runner, Runner)
    with torch.inference_mode():
        torch.testing.assert_close(runner(example), model(example))
    with pytest.raises(BootcampError, match=r"wrong: its outputs differ from torch's by .* \(allowed 1e-06\)"):
        prepare(f"{plugin}:wrong", model, example)
    with pytest.raises(BootcampError, match="gave NoneType, and a backend gives a Runner"):
        prepare(f"{plugin}:nothing", model, example)


def test_a_backend_of_the_users_own_works_through_profile(plugin: Path, tmp_path: Path) -> None:
    from pruning_bootcamp.flow.commands import profile, train

    train(load(SMOKE, [f"save_dir={tmp_path / 'dense'}", "device=cpu"]))
    network = tmp_path / "dense" / "best_model.pth"
    asked = ["device=cpu", f"checkpoint={network}", f"save_dir={tmp_path}", "profile.runs=3", "profile.batch_size=2"]
    cfg = load(SMOKE, [*asked, f"profile.backend={plugin}:halves"])
    check(cfg, "profile", "config")
    found = profile(cfg, baseline=str(network))
    assert found.latency is not None
    assert found.latency.pruned is not None
    assert (found.latency.pruned.backend, found.latency.pruned.batch_size) == ("halves", 2)
    assert found.alternatives is not None
    assert {"torch, batch 1", "torch channels_last, batch 1", "onnxruntime on cpu, batch 16"} <= set(found.alternatives)
