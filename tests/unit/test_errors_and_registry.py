"""Errors say where, what, the nearest name and what exists; registries refuse doubles and unknown names."""

import pytest

from pruning_bootcamp.errors import BootcampError, GoalNotMet, Problem, listed, nearest, unknown
from pruning_bootcamp.registry import Registry


def registry() -> Registry:
    scores: Registry = Registry("score", given=("seed",))

    @scores.register("magnitude", needs=())
    def magnitude(weight: object, *, p: int = 1, seed: int = 0) -> None:
        """|w|^p, the oldest score."""

    @scores.register("taylor", needs=("grad",))
    def taylor(weight: object, *, eps: float) -> None:
        """|w * g|."""

    return scores


def test_one_problem_is_one_line_and_several_are_listed() -> None:
    assert (
        str(BootcampError("sparsity: 2 is not in [0, 1).", where="x.yaml")) == "x.yaml: sparsity: 2 is not in [0, 1)."
    )
    assert str(BootcampError("a", "b", where="x.yaml")) == "x.yaml has 2 problems:\n  a\n  b"
    assert (BootcampError("a").exit_code, GoalNotMet("a").exit_code) == (2, 3)


def test_a_problem_is_moved_by_its_path_and_its_text_stays() -> None:
    problem = Problem("prune.sparsity", "1.4 is not in [0, 1).")
    assert str(problem) == "prune.sparsity: 1.4 is not in [0, 1)."
    assert str(problem.under("sweep.space")) == "sweep.space.prune.sparsity: 1.4 is not in [0, 1)."
    assert problem.renamed({"prune.sparsity": "sensitivity.sparsities"}).path == "sensitivity.sparsities"
    assert problem.renamed({"prune": "zeros"}).path == "zeros.sparsity"
    assert problem.renamed({"prune.spars": "x"}) == problem, "a part of a name is another name"
    assert str(Problem("", "gone").under("model.name")) == "model.name: gone"


def test_an_error_keeps_its_problems_and_puts_them_under_its_place() -> None:
    error = BootcampError(Problem("args.eps", "needed."), "text alone", where="prune.score")
    assert [problem.path for problem in error.problems] == ["args.eps", ""]
    assert list(map(str, error.located())) == ["prune.score.args.eps: needed.", "prune.score: text alone"]


def test_unknown_names_the_nearest_and_what_exists() -> None:
    text = unknown("score", "magntude", ["taylor", "magnitude"])
    assert text == "unknown score 'magntude'. Did you mean 'magnitude'? Available: magnitude, taylor."
    assert nearest("zzz", ["taylor"]) is None
    assert listed([str(n) for n in range(5)], limit=2) == "0, 1 and 3 more"


def test_registry_finds_lists_and_describes() -> None:
    scores = registry()
    assert list(scores) == ["magnitude", "taylor"]
    assert scores["magnitude"].summary == "|w|^p, the oldest score."
    assert scores["taylor"].facts["needs"] == ("grad",)
    assert list(scores["magnitude"].settings) == ["p"], "seed is given by the engine, not by the user"


def test_registry_refuses_doubles_missing_docstrings_and_unknown_names() -> None:
    scores = registry()
    with pytest.raises(ValueError, match="registered twice"):
        scores.register("taylor")(lambda weight: None)
    with pytest.raises(ValueError, match="needs a docstring"):
        scores.register("bare")(lambda weight: None)
    with pytest.raises(BootcampError, match="Did you mean 'taylor'"):
        scores["tailor"]


def test_settings_are_checked_all_at_once() -> None:
    checked, problems = registry().check("magnitude", {"p": "two", "q": 1}, "prune.score")
    assert checked == {}
    assert [str(problem) for problem in problems] == [
        "prune.score.args.p: 'two' is not a whole number.",
        "prune.score.args.q: unknown setting 'q'. Available: p.",
    ]
    assert registry().check("taylor", {}, "s")[1] == [
        Problem("s.args.eps", "needed and not given. Add s.args.eps=VALUE.")
    ]
    assert registry().check("taylor", {"eps": "1e-3"}, "s") == ({"eps": 1e-3}, [])
