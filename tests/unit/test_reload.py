"""A network that is rebuilt computes what it did: what a reload would draw anew is refused, and named."""

import copy
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.api.compression import CompressionPipeline, load_compressed
from pruning_bootcamp.api.iterative import IterativePruningTrainer
from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, load_model, new_process, save_checkpoint
from pruning_bootcamp.checkpoints.attributes import unsaved
from pruning_bootcamp.checkpoints.new_process import check_file, check_rebuilds, check_saved
from pruning_bootcamp.checkpoints.recipe import find_changes
from pruning_bootcamp.checkpoints.reload import check_builder, difference, make_proof
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model

HEAD = """
import random
import numpy as np
import torch
import torch.nn.functional as F
from functools import partial
from torch import nn
"""
# How a network of the user's own may draw something that no file holds: what __init__ does, what forward does with x
# [n, 6], what is said of it.
DRAWN = {
    "tensor": (
        "self.mix = torch.randn(6, 6)",
        "x @ self.mix",
        "`Net.mix` (a random tensor of shape 6x6, kept as plain",
    ),
    "numpy": (
        "self.mix = np.random.randn(6)",
        "x * torch.from_numpy(self.mix).float()",
        "a random NumPy array of shape 6",
    ),
    "permutation": (
        "self.order = torch.randperm(6)",
        "x[:, self.order]",
        "self.register_buffer('order', torch.randperm(6))",
    ),
    "in a list": (
        "self.mixes = [torch.eye(6), torch.randn(6, 6)]",
        "x @ self.mixes[1]",
        "`Net.mixes[1]` (a random tensor",
    ),
    "in a table": ("self.mixes = {'a': torch.randn(6)}", "x * self.mixes['a']", "`Net.mixes['a']` (a random tensor"),
    "floats in a table": (
        "self.of = {i: random.random() for i in range(6)}",
        "x * torch.tensor(list(self.of.values()))",
        "`Net.of` (a table of 6",
    ),
    "layer in a list": (
        "self.parts = [nn.Linear(6, 6)]",
        "self.parts[0](x)",
        "`Net.parts[0]` (a Linear in a plain container",
    ),
    "closure": ("mix = torch.randn(6); self.scale = lambda x: x * mix", "self.scale(x)", "`Net.scale` (a function"),
    "activation": (
        "self.act = random.choice([torch.sin, torch.cos, torch.exp, torch.tanh])",
        "self.act(x)",
        "`Net.act`",
    ),
    "partial": ("self.mul = partial(torch.mul, torch.randn(6))", "self.mul(x)", "`Net.mul` (a partial"),
    "deeper": (
        "self.body = nn.Sequential(nn.Linear(6, 6), Mixer())",
        "self.body(x)",
        "`body.1 (Mixer).mix` (a random tensor",
    ),
    "behind a head of zeros": (
        "self.mix = torch.randn(6, 6); nn.init.zeros_(self.head.weight)",
        "x @ self.mix",
        "`Net.mix`",
    ),
    "in the first pass": ("self.mix = None", "x @ self.drawn()", "`Net.mix` (a random tensor"),
    "layers": (
        "self.body = random.choice([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU])()",
        "self.body(x)",
        "which layers there are: make it a setting",
    ),
}


def source(init: str, out: str, head: str = "") -> str:
    return HEAD + textwrap.dedent(
        f"""
        {head}

        class Mixer(nn.Module):
            def __init__(self):
                super().__init__()
                self.mix = torch.randn(6, 6)

            def forward(self, x):
                return x @ self.mix

        class Net(nn.Module):
            def __init__(self, classes):
                super().__init__()
                self.head = nn.Linear(6, classes)
                {init}

            def drawn(self):
                if self.mix is None:
                    self.mix = torch.randn(6, 6)
                return self.mix

            def forward(self, x):
                x = x.flatten(1)
                return self.head({out})

        def build(classes):
            return Net(classes)
        """
    )


Own = Callable[..., tuple[nn.Module, Recipe]]


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Own:
    """A network of the user's own from its source, built, and its recipe."""

    def write(init: str, out: str, head: str = "") -> tuple[nn.Module, Recipe]:
        path = tmp_path / "mynet.py"
        for name in [name for name in sys.modules if name.startswith("mynet_")]:  # as in a process that begins
            del sys.modules[name]
        path.write_text(source(init, out, head))
        recipe = Recipe(f"{path}:build", {}, 3, 1, (1, 2, 3), (0.0,), (1.0,))
        return build_model(recipe.model, classes=3, in_channels=1), recipe

    return write


@pytest.mark.parametrize("kind", DRAWN)
def test_what_a_reload_draws_anew_is_refused_before_any_work_and_named(own: Own, kind: str) -> None:
    init, out, says = DRAWN[kind]
    model, recipe = own(init, out)
    before = torch.get_rng_state()
    with pytest.raises(BootcampError) as error:
        check_builder(model, recipe)
    assert says in str(error.value)
    assert "register_buffer" in str(error.value) or kind == "layers"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["tensor", "in a table", "layer in a list"])
def test_no_file_is_written_that_gives_another_network(own: Own, kind: str, tmp_path: Path) -> None:
    model, recipe = own(*DRAWN[kind][:2])
    with pytest.raises(BootcampError, match="after a reload another function"):
        save_checkpoint(tmp_path / "m.pth", model, recipe)
    assert not list(tmp_path.glob("m.pth*"))


FINE = {
    "registered": ("self.register_buffer('mix', torch.randn(6, 6))", "x @ self.mix"),
    "registered, not in state dicts": (
        "self.register_buffer('mix', torch.randn(6, 6), persistent=False)",
        "x @ self.mix",
    ),
    "a number": ("self.scale = random.random()", "x * self.scale"),
    "numbers": ("self.order = random.sample(range(6), 6)", "x[:, self.order]"),
    "not used": ("self.noise = torch.randn(6, 6)", "x"),
    "used in training only": ("self.noise = torch.randn(6)", "x + self.noise if self.training else x"),
    "the same each time": ("self.mix = torch.eye(6)", "x @ self.mix"),
    "layers": ("self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())", "self.body(x)"),
}


@pytest.mark.parametrize("kind", FINE)
def test_what_a_file_holds_or_nothing_depends_on_is_no_reason(own: Own, kind: str, tmp_path: Path) -> None:
    model, recipe = own(*FINE[kind])
    check_builder(model, recipe)
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    images = torch.randn(5, 1, 2, 3)
    assert torch.equal(load_model(tmp_path / "m.pth", trust_code=True)(images), model.eval()(images))


def test_weights_of_another_program_lack_even_numbers_and_unsaved_buffers(own: Own, tmp_path: Path) -> None:
    """A state dict holds neither: the network they were trained in can't be had back."""
    for init, out, says in (
        ("self.scale = random.random()", "x * self.scale", "`Net.scale` (a random number"),
        (FINE["registered, not in state dicts"][0], "x @ self.mix", "Register it without persistent=False"),
    ):
        model, recipe = own(init, out)
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        with pytest.raises(BootcampError) as error:
            load_checkpoint(tmp_path / "weights.pth", recipe=recipe)
        assert says in str(error.value)
        assert str(tmp_path / "weights.pth") in str(error.value)


def test_a_network_that_is_random_in_each_pass_is_said_to_be_and_opened(
    own: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, recipe = own("pass", "F.dropout(x, 0.5, training=True)")
    check_builder(model, recipe)
    save_checkpoint(tmp_path / "m.pth", model, recipe)
    load_model(tmp_path / "m.pth", trust_code=True)
    assert caplog.text.count("gives other outputs in each pass") == 1


def test_a_network_random_in_each_pass_hides_no_random_attribute(own: Own) -> None:
    model, recipe = own("self.mix = torch.randn(6, 6)", "F.dropout(x @ self.mix, 0.5, training=True)")
    with pytest.raises(BootcampError, match=r"`Net\.mix`"):
        check_builder(model, recipe)


def test_what_is_drawn_at_import_is_found_in_a_new_process(own: Own, tmp_path: Path) -> None:
    """Here the file was imported once: no build differs from another. A file that was saved so is removed."""
    model, recipe = own("pass", "x @ MIX", "MIX = torch.randn(6, 6)")
    check_builder(model, recipe)
    path = tmp_path / "m.pth"
    save_checkpoint(path, model, recipe)
    with pytest.raises(BootcampError, match=r"new process.*MIX` \(a random tensor of shape 6x6, of the source file\)"):
        check_saved(path, recipe)
    assert not path.exists()


def test_the_order_of_a_set_is_found_in_a_new_process(own: Own) -> None:
    head = "NAMES = {'a', 'b', 'c', 'd', 'e', 'f'}"
    model, recipe = own("pass", "x * torch.tensor([ord(c) for c in NAMES])", head)
    with pytest.raises(BootcampError, match="a set of 6, whose order"):
        check_rebuilds(model, recipe)


def test_a_good_network_opens_in_a_new_process_once_a_factory(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recipe = own(*FINE["registered"])
    check_rebuilds(model, recipe)
    monkeypatch.setattr(new_process, "check_file", None)
    check_rebuilds(model, recipe)
    check_saved(tmp_path / "m.pth", replace(recipe, model="cifar_resnet20"))  # ours draw nothing at import


def test_a_server_that_died_is_started_anew_and_what_ends_a_process_is_told(own: Own, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    model, recipe = own(*FINE["registered"])
    save_checkpoint(path, model, recipe)
    check_file(path)
    server = new_process._servers[os.getpid()]
    check_file(path)
    assert new_process._servers[os.getpid()] is server
    server.kill()
    server.wait()
    check_file(path)
    assert new_process._servers[os.getpid()].pid != server.pid
    good = (tmp_path / "mynet.py").read_text()
    ends = "import os\nprint('too little memory', flush=True)\nos._exit(7)\n"
    for head, says in ((ends, "too little memory"), ("1 / 0\n", "ZeroDivisionError: division by zero")):
        (tmp_path / "mynet.py").write_text(head + good)
        with pytest.raises(BootcampError, match=says):
            check_file(path)
    (tmp_path / "mynet.py").write_text(good)
    check_file(path)  # nothing of the last ones is left in the server


def test_a_source_that_was_changed_since_is_noticed_and_what_changed_named(own: Own, tmp_path: Path) -> None:
    model, recipe = own("self.mix = 2 * torch.eye(6)", "x @ self.mix")
    path = tmp_path / "m.pth"
    save_checkpoint(path, model, recipe)
    own("self.mix = 3 * torch.eye(6)", "x @ self.mix")
    with pytest.raises(BootcampError, match=r"`Net\.mix`.*was the code that builds it changed since"):
        load_model(path, trust_code=True)
    own("self.mix = 2 * torch.eye(6)", "x @ self.mix.T")  # the same function: nothing is said
    load_model(path, trust_code=True)


def test_a_file_from_before_there_were_proofs_opens_unless_its_factory_is_random(own: Own, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    model, recipe = own("self.mix = torch.eye(6)", "x @ self.mix")
    save_checkpoint(path, model, recipe)
    content = torch.load(path, weights_only=True)
    assert content.pop("proof")["outputs"][0]["shape"] == [2, 3]
    torch.save(content, path)
    assert not load_checkpoint(path, trust_code=True).proved
    own("self.mix = torch.randn(6, 6)", "x @ self.mix")
    with pytest.raises(BootcampError, match=r"`Net\.mix`"):
        load_model(path, trust_code=True)


@pytest.mark.parametrize(
    "proof",
    [
        [1],
        {"outputs": 3},
        {"outputs": [{}], "attributes": {}},
        {"outputs": [{"shape": [2, 3], "values": [0.0]}], "attributes": {}},
    ],
)
def test_a_damaged_proof_is_a_message(tmp_path: Path, proof: object) -> None:
    recipe = Recipe("cifar_resnet20", {}, 3, 1, (1, 8, 8), (0.0,), (1.0,))
    save_checkpoint(tmp_path / "m.pth", build_model("cifar_resnet20", classes=3, in_channels=1), recipe)
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    torch.save({**content, "proof": proof}, tmp_path / "m.pth")
    with pytest.raises(BootcampError, match="'proof' is damaged"):
        load_model(tmp_path / "m.pth")


def test_the_proof_is_the_networks_outputs_on_seeded_noise() -> None:
    recipe = Recipe("cifar_resnet20", {}, 3, 1, (1, 8, 8), (0.0,), (1.0,))
    model = build_model("cifar_resnet20", classes=3, in_channels=1)
    proof = make_proof(model, recipe)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(images).detach()
    assert torch.equal(torch.tensor(proof["outputs"][0]["values"]).reshape(2, 3).float(), expected)
    assert proof["random"] is False
    assert find_changes(model, replace(recipe, changes={})) == {}


def test_how_far_outputs_are_apart() -> None:
    def apart(one: list[float], other: list[float]) -> float:
        return difference([torch.tensor(one)], [torch.tensor(other)])

    nan, inf = float("nan"), float("inf")
    assert apart([1.0, -4.0], [1.0, -3.0]) == 0.25
    assert apart([nan, inf], [nan, inf]) == 0.0
    assert apart([1.0], [nan]) == inf
    assert apart([1.0], [1.0, 2.0]) == inf
    assert difference([], [Tensor()]) == inf


class Mixed(nn.Module):
    """A network for one's own loop, which keeps a random tensor that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.randn(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ self.mix)


def _same_weights(model: nn.Module) -> nn.Module:
    other = Mixed()
    other.load_state_dict(model.state_dict())
    return other


BATCHES = [(torch.randn(8, 6), torch.randint(3, (8,)))]


def test_rounds_of_pruning_do_not_go_on_with_another_network(tmp_path: Path) -> None:
    dense = Mixed()
    start = copy.deepcopy(dense)
    IterativePruningTrainer(dense, num_iterations=2).run_iterative_pruning(BATCHES, BATCHES, 0, save_dir=tmp_path)
    again = IterativePruningTrainer(copy.deepcopy(start), num_iterations=2)
    again.run_iterative_pruning(BATCHES, BATCHES, 0, save_dir=tmp_path)
    other = IterativePruningTrainer(_same_weights(start), num_iterations=2)
    with pytest.raises(BootcampError, match=r"`Mixed\.mix` \(a random tensor of shape 6x6.*register_buffer"):
        other.run_iterative_pruning(BATCHES, BATCHES, 0, save_dir=tmp_path)


def test_a_compressed_file_is_put_into_no_other_network(tmp_path: Path) -> None:
    model = Mixed()
    pipeline = CompressionPipeline(model, 1.5, stages=["prune"])
    pipeline.run_pipeline(BATCHES, BATCHES, pruning_epochs=0)
    pipeline.save(tmp_path / "m.safetensors")
    load_compressed(copy.deepcopy(model), tmp_path / "m.safetensors")
    with pytest.raises(BootcampError, match=r"m\.safetensors: was made with another network.*`Mixed\.mix`"):
        load_compressed(_same_weights(model), tmp_path / "m.safetensors")


def test_a_network_of_layers_adds_nothing_to_a_compressed_file() -> None:
    assert unsaved(build_model("cifar_resnet20", classes=3)) == {}
    assert list(unsaved(Mixed())) == ["Mixed.mix"]
