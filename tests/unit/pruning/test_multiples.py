"""round_to: auto comes to multiples of 8 on a CUDA device, to less where that is too coarse, and says so."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.compressions import compress
from pruning_bootcamp.flow.plan import begin
from pruning_bootcamp.pruning.channels.multiples import resolve_round_to
from pruning_bootcamp.pruning.channels.structured import StructuredPlan, check_structured, plan_structured
from pruning_bootcamp.reporting import structured_table

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def network(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def plan(*widths: int, device: torch.device = CUDA, **settings: object) -> StructuredPlan:
    choices = {"score": "l1", "target_flops_reduction": 0.5, "device": device} | settings
    return plan_structured(network(*widths), torch.zeros(1, 3, 8, 8), **choices)  # type: ignore[arg-type]


def kept(found: StructuredPlan) -> list[int]:
    return [len(group.keep) for group in found.groups]


@pytest.mark.parametrize(
    ("round_to", "device", "choices"),
    [
        ("auto", CUDA, (8, 4, 2, 1)),
        ("auto", torch.device("cuda", 3), (8, 4, 2, 1)),
        ("auto", CPU, (None,)),
        ("auto", torch.device("mps"), (None,)),
        ("none", CUDA, (None,)),
        (None, CUDA, (None,)),
        (16, CUDA, (16,)),
        (3, CPU, (3,)),
    ],
)
def test_what_round_to_comes_to(round_to: object, device: torch.device, choices: tuple[int | None, ...]) -> None:
    found = resolve_round_to(round_to, device)  # type: ignore[arg-type]
    assert found.choices == choices
    assert (found.why is not None) == (round_to == "auto")


def test_wide_layers_keep_multiples_of_8_on_cuda() -> None:
    found = plan(160, 160, 320)
    assert all(width % 8 == 0 for width in kept(found))
    assert found.round_to == 8
    assert found.narrow == {}
    assert structured_table(found).splitlines()[-2].startswith("round_to: auto -> 8 (cuda: ")
    assert "stepped down" not in structured_table(found)


def test_widths_fall_as_they_may_on_a_cpu_and_where_it_is_switched_off() -> None:
    on_cpu, off = plan(160, 160, 320, device=CPU), plan(160, 160, 320, round_to="none")
    assert kept(on_cpu) == kept(off)
    assert any(width % 8 for width in kept(off))
    assert (on_cpu.round_to, off.round_to) == (None, None)
    assert "round_to: auto -> null (cpu: widths as they fall)" in structured_table(on_cpu)
    assert "round_to" not in structured_table(off)


def test_a_narrow_layer_is_cut_in_smaller_steps() -> None:
    found = plan(8, 160, 320)
    assert kept(found)[0] in (4, 8)
    assert all(width % 8 == 0 for width in kept(found)[1:])
    assert (found.round_to, found.narrow) == (8, {"0": 4})
    assert "; too narrow for it: 0 in 4s" in structured_table(found)
    assert "too few" in plan(8, 160, 320, round_to=8).uncuttable["0"]


def test_where_all_layers_are_narrow_that_is_the_multiple() -> None:
    found = plan(6, 6, 6, sparsity=0.33, target_flops_reduction=None, allocation="local")
    assert kept(found) == [4, 4, 4]
    assert found.round_to == 4


@pytest.mark.parametrize("asked", [0.3, 0.55])
def test_it_steps_down_until_the_budget_is_met_and_says_so(asked: float) -> None:
    found = plan(16, 24, 16, target_flops_reduction=asked)
    assert found.round_to in (4, 2, 1)
    assert all(width % found.round_to == 0 for width in kept(found))
    assert abs(found.achieved - asked) <= 0.01
    (line,) = [line for line in structured_table(found).splitlines() if line.startswith("round_to:")]
    assert f"auto -> {found.round_to} (cuda: " in line
    assert f"stepped down from 8: multiples of 8 can't meet flops_reduction {asked:g} within 0.01 (nearest 0." in line
    with pytest.raises(GoalNotMet, match="round_to=8"):  # a number that was asked for is kept
        plan(16, 24, 16, target_flops_reduction=asked, round_to=8)


def test_what_even_single_channels_cannot_meet_is_refused() -> None:
    with pytest.raises(GoalNotMet, match=r"of all \d+ combinations"):
        plan(3, 2, target_flops_reduction=0.1)


@pytest.mark.parametrize(("value", "says"), [("autp", "Did you mean 'auto'"), (0, "0 is not"), (True, "True is not")])
def test_another_word_is_refused(value: object, says: str) -> None:
    (problem,) = check_structured(sparsity=0.5, round_to=value)  # type: ignore[arg-type]
    assert str(problem).startswith("structured.round_to: ")
    assert says in str(problem)


def test_the_config_takes_a_number_auto_none_or_null() -> None:
    assert load(None).structured.round_to == "auto"
    given = [load(None, [f"structured.round_to={text}"]).structured.round_to for text in ("8", "auto", "none", "null")]
    assert given == [8, "auto", "none", None]
    with pytest.raises(BootcampError, match=r"structured\.round_to: .*whole number.*Did you mean 'auto'"):
        load(None, ["structured.round_to=autp"])
    with pytest.raises(BootcampError, match=r"structured\.round_to: 0 is not at least 1"):
        load(None, ["structured.round_to=0"])


def test_a_result_depends_on_what_auto_comes_to(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """The same config on another kind of device is another run; auto and none are one where they come to the same."""

    def print_of(round_to: str) -> str:
        cfg = load(None, [f"structured.round_to={round_to}", f"save_dir={tmp_path}"])
        plan = begin(cfg, None)
        compress(plan, ["prune-structured"])
        return plan.keys()[plan.last]

    monkeypatch.setattr(settings, "choose_device", lambda name: (CPU, "cpu"))
    on_cpu = print_of("auto")
    assert on_cpu == print_of("none") == print_of("null")
    monkeypatch.setattr(settings, "choose_device", lambda name: (CUDA, "cuda"))
    assert print_of("auto") == print_of("8") != on_cpu
