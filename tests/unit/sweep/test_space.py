"""A search space is what its author wrote: every value once, ranges to their ends, and every mistake named."""

import pytest

from pruning_bootcamp.sweep.space import Dimension, grid, grid_size, parse_space, shown_setting
from pruning_bootcamp.sweep.study import decoded, distribution, encoded, make_sampler


def test_lists_ranges_and_nested_tables_are_dimensions() -> None:
    raw = {"structured.score": ["l1", "random"], "fine_tune": {"lr": {"low": 0.1, "high": 0.3, "step": 0.1}}}
    dimensions, problems = parse_space(raw)
    assert problems == []
    assert [dimension.key for dimension in dimensions] == ["fine_tune.lr", "structured.score"]
    assert dimensions[0].points() == (0.1, 0.2, 0.3)
    assert grid_size(dimensions) == 6
    points = grid(dimensions)
    assert len(points) == 6
    assert {"fine_tune.lr": 0.3, "structured.score": "random"} in points


@pytest.mark.parametrize(
    ("low", "high", "step", "expected"),
    [(1, 4, None, (1, 2, 3, 4)), (1, 6, 2, (1, 3, 5)), (0.0, 0.3, 0.1, (0.0, 0.1, 0.2, 0.3)), (0.1, 0.2, None, None)],
)
def test_a_range_has_its_points(low: float, high: float, step: float | None, expected: tuple | None) -> None:
    assert Dimension("x", (), low, high, step).points() == expected


def test_whole_numbers_without_a_step_go_up_by_one_and_others_have_no_end() -> None:
    assert grid_size([Dimension("x", (), 1, 3)]) == 3
    assert grid_size([Dimension("x", (), 1, 3), Dimension("y", (), 0.5, 3)]) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "is empty"),
        ({"a": []}, "has no value"),
        ({"a": [1, 1]}, "names a value twice"),
        ({"a": 3}, "neither a list of values nor"),
        ({"a": {}}, "neither a list of values nor"),
        ({"a": {"low": 1}}, "a.high: needed and not given"),
        ({"a": {"low": 1, "hihg": 2}}, "Did you mean 'high'?"),
        ({"a": {"low": 2, "high": 1}}, "is not below"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "has no logarithm"),
        ({"a": {"low": 1, "high": 2, "log": True, "step": 1}}, "can't be had together"),
        ({"a": {"low": 1, "high": 2, "step": 0}}, "is not above 0"),
        ({"a": {"low": "x", "high": 2}}, "'x' is not a number"),
        ({"a": {"low": 1, "high": 2, "log": "no"}}, "is not true or false"),
    ],
)
def test_a_mistake_is_named(raw: dict, said: str) -> None:
    dimensions, problems = parse_space(raw)
    assert dimensions == []
    assert any(said in str(problem) for problem in problems), problems


def test_all_mistakes_come_at_once() -> None:
    _, problems = parse_space({"a": [], "b": {"low": 2, "high": 1}, "c": 1})
    assert len(problems) == 3


@pytest.mark.parametrize(
    "values", [("l1", "l2"), (0.5, 0.25, 0.75), (1, 2), (None, 0.5), (True, False), ([1, 2], [3]), ("2:4", {"n": 1})]
)
def test_a_value_survives_the_way_through_the_study(values: tuple) -> None:
    dimension = Dimension("x", values)
    space = distribution(dimension)
    for value in values:
        code = encoded(dimension, value)
        assert space._contains(space.to_internal_repr(code))
        back = decoded(dimension, space.to_external_repr(space.to_internal_repr(code)))
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("name", ["grid", "random", "tpe", "nsga2"])
def test_samplers_ask_within_the_space_for_two_objectives(name: str) -> None:
    import optuna

    from pruning_bootcamp.sweep.study import OptunaStudy

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    dimensions = [Dimension("a", ("x", "y")), Dimension("b", (0.1, 0.2, 0.4))]
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, directions=["maximize", "minimize"])
    study.sampler = make_sampler(name, dimensions, seed=0)
    trials = OptunaStudy(
        study, storage, dimensions, "here", "flops_g", True, {d.key: distribution(d) for d in dimensions}
    )
    seen = []
    for number in range(6):
        asked, settings = trials.ask()
        assert asked == number
        assert settings["a"] in ("x", "y")
        assert settings["b"] in (0.1, 0.2, 0.4)
        seen.append(tuple(settings.values()))
        # one trial in three is stopped early, which no sampler may stumble over
        state = optuna.trial.TrialState.PRUNED if number % 3 == 2 else None
        study.tell(asked, None if state else [float(number), settings["b"]], state=state)
    if name == "grid":
        assert len(set(seen)) == 6


def test_what_is_shown_of_a_setting_is_short() -> None:
    assert [shown_setting(value) for value in (0.012345678901234567, 8, "l1", {"name": "l1"})] == [
        "0.01235",
        "8",
        "l1",
        '{"name": "l1"}',
    ]
