"""Results as data: what is written is read again, whole, whichever version wrote it; what is damaged is named."""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_bootcamp import results
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Part, from_plain, to_plain
from pruning_bootcamp.reporting.values import measured_on
from pruning_bootcamp.results import (
    Benchmark,
    Environment,
    Exports,
    Latency,
    Metric,
    Metrics,
    NetworkMetrics,
    Profile,
    Scan,
    Study,
    TrialResult,
)

HERE = Path(__file__).resolve().parent
KINDS: dict[str, type[Part]] = {
    "metrics": Metrics,
    "eval_metrics": Metrics,
    "export_metrics": Exports,
    "profile": Profile,
    "sensitivity": Scan,
    "sweep": Study,
    "trial": TrialResult,
}
OLDER = sorted((HERE / "written_by_0_1").rglob("*.yaml"))
PUBLISHED = sorted((HERE.parents[1] / "results" / "published").rglob("metrics.yaml"))
PARTS = [kind for kind in vars(results).values() if isinstance(kind, type) and issubclass(kind, Part)]


def test_there_are_files_of_every_kind() -> None:
    assert {path.stem for path in OLDER} == set(KINDS)
    assert len(OLDER) >= 17
    assert len(PUBLISHED) >= 3
    assert len(PARTS) > 30


@pytest.mark.parametrize("path", [*OLDER, *PUBLISHED], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_of_the_last_version_opens_and_is_written_back_equal(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = Benchmark if "rows" in content and path.stem == "metrics" else KINDS[path.stem]
    assert to_plain(from_plain(kind, content)) == content


@pytest.mark.parametrize("path", OLDER, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_name_that_the_last_version_wrote_is_a_field(path: Path) -> None:
    def unknown(part: object) -> list[str]:
        if isinstance(part, Part):
            return [*part.more, *(name for value in vars(part).values() for name in unknown(value))]
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, tuple) else ()
        return [name for value in inner for name in unknown(value)]

    part = from_plain(KINDS[path.stem], yaml.safe_load(path.read_text(encoding="utf-8")))
    assert [
        name
        for field in dataclasses.fields(part)
        if field.name != "more"
        for name in unknown(getattr(part, field.name))
    ] == []
    assert part.more == {}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of this type may hold."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (bool, int, float, str):
        small = st.integers(-(2**40), 2**40)
        numbers = {bool: st.booleans(), int: small, float: st.floats(allow_nan=False, allow_infinity=False)}
        return numbers.get(hint, st.text(max_size=5))
    if hint is type(None):
        return st.none()
    if isinstance(hint, type) and issubclass(hint, Part):
        return parts(hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if len(arguments) > 3:  # whatever a file may hold
        return st.one_of(st.text(max_size=3), st.lists(st.integers(0, 9), max_size=2), st.booleans())
    return st.one_of(*map(values, arguments))


def parts(kind: type[Part]) -> st.SearchStrategy[Part]:
    hints = get_type_hints(kind)
    names = {field.name: values(hints[field.name]) for field in dataclasses.fields(kind) if field.name != "more"}
    if kind is Metric:
        names["name"] = st.sampled_from(["perplexity", "mean_iou"])
    more = st.dictionaries(st.sampled_from(["from_elsewhere", "newer"]), st.integers(), max_size=2)
    return st.builds(kind, **names, more=more)


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_again(kind: type[Part], data: st.DataObject) -> None:
    part = data.draw(parts(kind))
    text = yaml.safe_dump(to_plain(part), sort_keys=False)
    assert from_plain(kind, yaml.safe_load(text)) == part


def test_what_is_not_known_is_not_written() -> None:
    assert to_plain(Metrics(accuracy=91.0)) == {"accuracy": 91.0}


def test_a_figure_beside_a_known_one_is_written_as_null() -> None:
    assert to_plain(Metrics(flops_g=1.0)) == {"flops_g": 1.0, "flops_g_thop": None}
    assert to_plain(Metrics(widths={"conv1": (16, 8)})) == {"widths": {"conv1": [16, 8]}, "round_to": None}


def test_unknown_names_are_kept() -> None:
    content = {"accuracy": 91.0, "environment": {"device": "cpu", "moon": "full"}, "colour": {"red": [1, None]}}
    assert to_plain(from_plain(Metrics, content)) == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"accuracy": "many"}, "accuracy: 'many' is not a number"),
        ({"accuracy": float("inf")}, "accuracy: inf is not a finite number"),
        ({"accuracy": True}, "accuracy: True is not a number"),
        ({"environment": {"threads": 1.5}}, "environment.threads: 1.5 is not a whole number"),
        ({"cycles": [{"cycle": 1, "sparsity": 0.5}]}, r"cycles\[0\].val_accuracy_pruned: is missing"),
        ({"widths": {"conv1": [16]}}, r"widths.conv1: \[16\] has 1 entries, not 2"),
        ({"baseline": [1]}, r"baseline: \[1\] is not a table"),
        ([1], "is not a table"),
    ],
)
def test_a_damaged_value_is_named_with_its_place(content: object, said: str) -> None:
    with pytest.raises(BootcampError, match=f"(?s)somewhere/metrics.yaml.*{said}"):
        from_plain(Metrics, content, "somewhere/metrics.yaml")


def test_everything_that_is_damaged_is_named_at_once() -> None:
    with pytest.raises(BootcampError) as error:
        from_plain(Metrics, {"accuracy": "a", "seed": "b", "goal_met": "c"}, "metrics.yaml")
    assert len(error.value.problems) == 3


def test_how_a_latency_was_measured_is_said_as_far_as_it_is_known() -> None:
    older = Latency(
        median_ms=1.0, mean_ms=1.0, std_ms=0.1, p5_ms=0.9, p95_ms=1.2, n=9, batch_size=16, device="cpu", threads=1,
        backend="openvino_int8",
    )  # fmt: skip
    assert older.way == "batch 16, openvino_int8 on cpu, 1 thread"
    newer = dataclasses.replace(older, version="2026.4.1", precision="int8", processor="a CPU", threads=2)
    assert newer.way == "batch 16, openvino_int8 2026.4.1 in int8 on cpu (a CPU), 2 threads"
    chosen = dataclasses.replace(newer, note="dense: no zeros")
    assert (chosen.way, chosen.noted_way) == (newer.way, f"{newer.way} (dense: no zeros)")
    machine = Environment(device="cpu (a CPU)")
    assert measured_on(machine, older) == "batch 16, openvino_int8 on cpu (a CPU), 1 thread"
    assert measured_on(machine, chosen) == chosen.noted_way
    assert measured_on(Environment(device="another"), newer) == newer.way
    assert measured_on(None, None) == "machine not recorded"
    metrics = NetworkMetrics(latency_ms=1.0, latency_batch_size=1, latency_backend="torch")
    assert metrics.latency_way == "batch 1, torch"
    assert NetworkMetrics().latency_way == ""
    noted = dataclasses.replace(metrics, latency_note="3.6x")  # two seeds' figures differ, and their way does not
    assert (noted.latency_way, noted.noted_latency_way) == ("batch 1, torch", "batch 1, torch (3.6x)")
