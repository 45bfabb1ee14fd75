"""A model looked at is a model unchanged; a library's chatter goes to the debug log."""

import logging
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pruning_bootcamp.tools.modes import detached_clone, evaluation_mode
from pruning_bootcamp.tools.quiet import quiet


def test_every_module_has_its_own_mode_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    model.train()
    model[0].eval()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, False, True, True]


def test_a_clone_of_a_torch_pruned_model_is_its_equal_and_independent() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    prune.random_unstructured(model[0], "weight", 0.5)
    x = torch.randn(2, 4)
    before = model(x)  # leaves a computed weight behind, which copy.deepcopy refuses
    clone = detached_clone(model)
    torch.testing.assert_close(clone(x), before)
    with torch.no_grad():
        clone[0].weight_orig.zero_()  # type: ignore[operator, index, union-attr]
        clone[0].bias.zero_()  # type: ignore[operator, index, union-attr]
    assert clone(x).abs().sum() == 0
    torch.testing.assert_close(model(x), before)


class Caching(nn.Module):
    """Keeps a computed tensor in a table, as LeViT its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.table: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table["doubled"] = 2 * self.layer.weight
        return self.layer(x)


def test_a_computed_tensor_in_a_table_is_cloned() -> None:
    model = Caching()
    model(torch.randn(2, 4))
    clone = detached_clone(model)
    assert isinstance(clone, Caching)
    torch.testing.assert_close(clone.table["doubled"], 2 * model.layer.weight.detach())
    assert clone.table["doubled"].is_leaf


def test_a_compiled_model_is_cloned_uncompiled() -> None:
    model = nn.Linear(2, 2)
    assert type(detached_clone(torch.compile(model))) is nn.Linear  # type: ignore[arg-type]


def test_chatter_goes_to_the_debug_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("pruning_bootcamp"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("pruning_bootcamp"), "handlers", [])  # a command's screen, from another test
    caplog.set_level(logging.DEBUG, "pruning_bootcamp")
    other = logging.getLogger("somebody.else")
    own = logging.StreamHandler()
    other.addHandler(own)
    with quiet("lib"):
        print("printed")
        print("to stderr", file=sys.stderr)
        warnings.warn("warned", stacklevel=1)
        other.warning("logged")
        logging.getLogger("unheard of").warning("logged too")
    assert capfd.readouterr() == ("", "")
    said = [record.getMessage() for record in caplog.records if record.name == "pruning_bootcamp"]
    assert said == [f"lib: {what}" for what in ("printed", "to stderr", "logged", "logged too", "warned")]
    assert all(record.levelno == logging.DEBUG for record in caplog.records if record.name == "pruning_bootcamp")
    assert other.handlers == [own]
    other.removeHandler(own)


def test_an_error_passes_and_the_streams_are_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="through"), quiet("lib"):
        raise ValueError("through")
    print("seen")
    assert capsys.readouterr().out == "seen\n"
