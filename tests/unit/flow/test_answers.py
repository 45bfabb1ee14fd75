"""What would pay: from timings to answers, by the interval of the paired ratios alone."""

import dataclasses
import statistics
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from pruning_bootcamp.flow.steps import answers
from pruning_bootcamp.flow.steps.answers import CANT_TELL, QUICKER, SLOWER, Asked, Cuts
from pruning_bootcamp.flow.steps.pays import filled_copy
from pruning_bootcamp.reporting import would_pay_text
from pruning_bootcamp.tools.latency import LatencyStats

ASKED = Asked("my model.pth", ("torch",), 16, 2)


def took(milliseconds: float | Sequence[float], backend: str = "torch", **more: object) -> LatencyStats:
    rounds = [milliseconds] * 20 if isinstance(milliseconds, float) else list(milliseconds)
    middle = statistics.median(rounds)
    look = {"median_ms": middle, "mean_ms": middle, "std_ms": 0.0, "p5_ms": middle, "p95_ms": middle, "n": len(rounds)}
    look |= {"batch_size": 16, "device": "cpu", "threads": 2, "backend": backend, "rounds_ms": tuple(rounds)}
    return LatencyStats(**(look | more))


WHOLE = {"torch": took(4.0), "runtime": took(2.0)}


def test_the_interval_decides_whether_it_is_quicker() -> None:
    base = took(2.0)
    assert answers.option("a", took(1.0), base, "base").verdict == QUICKER
    assert answers.option("a", took(4.0), base, "base").verdict == SLOWER
    unsure = answers.option("a", took([1.0, 4.0] * 10), base, "base")
    assert unsure.verdict == CANT_TELL
    assert unsure.low is not None
    assert unsure.low < 1 < unsure.high
    few = answers.option("a", took([1.0, 1.0]), took([2.0, 2.0]), "base")
    assert (few.low, few.high, few.verdict) == (None, None, CANT_TELL)


def test_the_quickest_backend_is_one_that_leaves_the_numbers_as_they_are() -> None:
    stats = {"torch": took(4.0), "runtime": took(2.0, "runtime"), "int8": took(1.0, "int8", precision="int8")}
    found = answers.about_backends(stats, ASKED, {"other": "needs other, which is not installed"})
    assert "Of 2 backends runtime is the quickest: 2.000 ms, 2.00x as quick as torch" in found.answer
    assert [one.name for one in found.options] == ["runtime", "other"]
    assert found.command == (
        "pruning-bootcamp eval --checkpoint 'my model.pth' --measure-latency --backend runtime --batch-size 16 "
        "--threads 2"
    )


def test_no_backend_is_recommended_that_may_be_noise() -> None:
    found = answers.about_backends({"torch": took(2.0), "other": took([1.0, 4.0] * 10)}, ASKED, {})
    assert "none is certainly quicker than torch" in found.answer
    assert found.command is None


def test_int8_is_compared_with_float32_of_its_own_runtime() -> None:
    stats = {"torch": took(4.0, version="t"), "runtime": took(1.0, version="r")}
    stats["runtime8"] = took(2.0, precision="int8", version="r")
    slower = answers.about_int8(stats, ASKED, {})
    assert slower.options[0].against == "runtime"
    assert slower.options[0].verdict == SLOWER
    assert slower.command is None
    stats["runtime8"] = took(0.5, precision="int8 and float32", version="r")
    quicker = answers.about_int8(stats, ASKED, {})
    assert quicker.command == "pruning-bootcamp export --checkpoint 'my model.pth' --format int8 --verify"
    assert "No backend here could run it in int8" in answers.about_int8({"torch": took(1.0)}, ASKED, {}).answer


def cuts() -> Cuts:
    saved = {"widths as they fall": 0.5, "multiples of 8": 0.495}
    return Cuts(dict.fromkeys(saved, nn.Identity()), saved, {"multiples of 16": "too coarse"})


def test_widths_are_compared_with_the_whole_network_and_with_each_other() -> None:
    stats = {"uncut": took(2.0), "widths as they fall": took(2.5), "multiples of 8": took(1.2)}
    found = answers.about_widths(stats, cuts(), "runtime", WHOLE, ASKED)
    assert [one.verdict for one in found.options] == [SLOWER, QUICKER, None]
    assert "quickest in multiples of 8: 1.67x as quick as uncut" in found.answer
    assert "2.08x as quick as widths as they fall" in found.answer
    assert found.command is not None
    assert "--target-latency-reduction 0.4 --backend runtime" in found.command
    assert found.options[2].note == "too coarse"


def test_where_no_narrowing_is_quicker_there_is_no_command() -> None:
    stats = {"uncut": took(2.0), "widths as they fall": took(2.5), "multiples of 8": took(2.1)}
    found = answers.about_widths(stats, cuts(), "runtime", WHOLE, ASKED)
    assert "not certainly quicker in runtime: 0.80x" in found.answer
    assert found.command is None
    assert (
        "can't run what was cut" in answers.about_widths({"uncut": took(2.0)}, cuts(), "runtime", WHOLE, ASKED).answer
    )


@pytest.mark.parametrize(
    ("speedup", "share"), [(1.0, 0.0), (1.04, 0.0), (1.06, 0.05), (2.0, 0.5), (1.9, 0.45), (99, 0.9)]
)
def test_a_budget_is_a_round_share_below_what_was_saved(speedup: float, share: float) -> None:
    assert answers.rounded_share(speedup) == share


def test_zeros_that_a_backend_uses() -> None:
    pairs = {
        "blind": {"filled": took(2.0), "zeros": took(2.0)},
        "sparse": {"filled": took(3.0), "zeros": took(1.5)},
    }
    whole = {"torch": took(2.5), "blind": took(2.0), "sparse": took(1.5)}
    found = answers.about_zeros(0.8, pairs, whole, ASKED, {"odd": "can't run it"})
    assert (
        "80.0% of its weights are zero, and sparse uses them: 1.500 ms, 2.00x as quick as without zeros" in found.answer
    )
    assert found.command is not None
    assert "--backend sparse" in found.command
    none = answers.about_zeros(0.8, {"blind": pairs["blind"]}, whole, ASKED, {})
    assert "no backend that is installed here is certainly quicker for that" in none.answer
    hardly = answers.about_zeros(0.8, {"blind": {"filled": took(2.1), "zeros": took(2.0)}}, whole, ASKED, {})
    assert [one.verdict for one in hardly.options] == [CANT_TELL], "two copies of one network differ by as much"
    assert hardly.command is None
    assert "nothing to use" in answers.about_zeros(0.0, {}, whole, ASKED, {}).answer


def test_int8_that_is_slower_than_what_was_asked_for_is_no_advice() -> None:
    stats = {"onnx": took(1.0, version="o"), "vino": took(4.0, version="v")}
    stats |= {"vino8": took(2.0, precision="int8", version="v"), "onnx8": took(1.2, precision="int8", version="o")}
    asked = dataclasses.replace(ASKED, backends=("onnx",))
    found = answers.about_int8(stats, asked, {})
    assert "vino8: 2.000 ms, 2.00x as quick as vino" in found.answer
    assert "but against what was asked for: 0.50x as quick as onnx (95% interval 0.50 to 0.50): slower" in found.answer
    assert found.command is None
    assert answers.next_command([answers.about_backends(stats, asked, {}), found]) is None
    stats["vino8"] = took([0.5, 1.5] * 10, precision="int8", version="v")
    assert answers.about_int8(stats, asked, {}).command is None, "which is not certain"
    own = answers.about_int8(stats, dataclasses.replace(ASKED, backends=("vino8",)), {})
    assert own.command is None
    assert "it is what was asked for" in own.answer


def test_of_int8_that_is_quicker_than_its_float32_the_one_that_is_quicker_than_what_was_asked_for_counts() -> None:
    stats = {"onnx": took(1.0, version="o"), "vino": took(4.0, version="v")}
    stats["vino8"] = took([0.5, 1.3] * 10, precision="int8", version="v")
    stats["onnx8"] = took(0.95, precision="int8", version="o")
    found = answers.about_int8(stats, dataclasses.replace(ASKED, backends=("onnx",)), {})
    assert found.answer.startswith("onnx8: 0.950 ms, 1.05x as quick as onnx (95% interval 1.05 to 1.05): quicker. ")
    assert (found.takes_ms, found.command is None) == (0.95, False)


def test_zeros_that_a_slower_backend_uses_are_no_advice() -> None:
    pairs = {"sparse": {"filled": took(8.0), "zeros": took(3.0)}}
    found = answers.about_zeros(0.9, pairs, {"torch": took(1.0), "sparse": took(3.0)}, ASKED, {})
    assert "sparse uses them: 3.000 ms, 2.67x as quick as without zeros" in found.answer
    assert "but against what was asked for: 0.33x as quick as torch (95% interval 0.33 to 0.33): slower" in found.answer
    assert found.command is None
    assert answers.next_command([found]) is None
    asked = dataclasses.replace(ASKED, backends=("sparse",))
    own = answers.about_zeros(0.9, pairs, {"sparse": took(3.0)}, asked, {})
    assert own.answer.endswith("quicker; it is what was asked for.")
    assert own.command is None


def test_narrower_on_a_backend_that_stays_slower_is_no_advice() -> None:
    stats = {"uncut": took(4.0), "widths as they fall": took(2.0)}
    slow = answers.about_widths(stats, cuts(), "second", {"torch": took(1.0), "second": took(4.0)}, ASKED)
    assert slow.answer.endswith("second itself is 0.25x as quick as torch (95% interval 0.25 to 0.25): slower.")
    assert slow.command is None
    near = answers.about_widths(stats, cuts(), "second", {"torch": took(3.0), "second": took(4.0)}, ASKED)
    assert near.command is not None, "0.75 times as quick, and then twice"
    assert near.takes_ms == 2.0


def test_the_next_command_is_that_of_the_option_that_takes_least() -> None:
    stats = {"torch": took(4.0, version="t"), "torch8": took(2.0, precision="int8", version="t")}
    widths = answers.about_widths(
        {"uncut": took(4.0), "widths as they fall": took(3.0), "multiples of 8": took(2.5)},
        cuts(),
        "torch",
        stats,
        ASKED,
    )
    found = [answers.about_backends(stats, ASKED, {}), widths, answers.about_int8(stats, ASKED, {})]
    command = answers.next_command(found)
    assert command is not None
    assert "export" in command
    assert answers.next_command(found[:2]) == widths.command
    assert answers.next_command([dataclasses.replace(widths, command=None)]) is None
    text = would_pay_text(found, command)
    assert text.endswith(f"Next, with the same -c and settings: {command}")
    assert "1.60x" in text
    assert would_pay_text(found[:1], None).endswith("Nothing here is certainly quicker.")


def test_a_filled_copy_has_no_zeros_and_the_rest_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
        model[2].weight.zero_()
    filled = filled_copy(model)
    assert bool((filled[0].weight != 0).all())
    assert bool((filled[2].weight != 0).all())
    assert torch.equal(filled[0].weight[:, 1::2], model[0].weight[:, 1::2])
    assert torch.equal(filled[0].bias, model[0].bias)
    assert int((model[0].weight == 0).sum()) == 32
