"""What the course says comes out: each comparison rests on a claim, each claim on a file, a false one is shown so."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pruning_bootcamp.course.claims import Claim, Order, Range, judge, look_up
from pruning_bootcamp.course.day import Day
from pruning_bootcamp.course.marks import ALWAYS, judged, marked_in, render, with_names, without_marked
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.course.view import show_day, show_figures

by_number = pytest.mark.parametrize("day", days(), ids=lambda day: f"day{day.number:02}")

# Words that compare, or name a winner.
COMPARING = re.compile(
    r"\b(?:(?:quick|slow|fast|small|larg|high|low|good|few|clos|great|deep|wid|short|long|hard|eas|cheap|dear|strong"
    r"|weak|lat|narrow|light|heav|bigg|sharp|rough|sparse?|dense?)(?:er|ier|est|iest)|more accurate"
    r"|better|worse|best|worst|more|less|most|least|fewer|fewest|beats?|wins?|won|winner|loses?|lost|outperforms?"
    r"|ahead|behind|superior|inferior|exceeds?|gains?|ruins?|twice|half as|than)\b",
    re.IGNORECASE,
)
# The words in another sense: a place, and what is left over.
OTHERWISE = re.compile(r"left behind|leaves behind|\*?behind\*? (?:batch norm|the layer|it)\b", re.IGNORECASE)
MEASURED_LOOK = re.compile(r"(\d+(?:\.\d+)?)(?:%| points?| images?\b| MB| ms)")


@by_number
def test_every_comparison_rests_on_a_claim_or_says_why_it_is_always_so(day: Day) -> None:
    for text in day.texts:
        if text == day.idea:  # the method, its formula and paper; its outcomes are in the other parts
            continue
        loose = OTHERWISE.sub("", without_marked(text))
        found = [loose[max(0, hit.start() - 60) : hit.end() + 30] for hit in COMPARING.finditer(loose)]
        assert not found, f"day {day.number}: put it into [[claim: ...]], or say what always holds: {found}"


def settings_of_the_course() -> set[float]:
    """Numbers that a command is given, in percent too, and what is left when so much goes."""
    typed = {float(number) for day in days() for step in day.steps for number in re.findall(r"\d+\.?\d*", step.command)}
    shares = {round(100 * number, 6) for number in typed if number < 1}
    return typed | shares | {round(100 - share, 6) for share in shares}


@by_number
def test_a_measured_figure_stands_in_a_claim_too(day: Day) -> None:
    known = settings_of_the_course() | {1.5, 135, 449}  # the goal; the images of two splits
    for text in (day.why, day.see, *(question.answer for question in day.questions)):
        loose = without_marked(text)
        found = [hit.group(0) for hit in MEASURED_LOOK.finditer(loose) if float(hit.group(1)) not in known]
        assert not found, f"day {day.number}: {found} in: {loose}"


@by_number
def test_every_mark_names_a_claim_of_its_day_and_every_claim_is_spoken_of_or_counted(day: Day) -> None:
    names = [claim.name for claim in day.claims]
    assert len(names) == len(set(names))
    assert not set(names) & set(ALWAYS)
    used = [name for text in day.texts for marked in marked_in(text) for name in marked.names]
    assert set(used) <= set(names) | set(ALWAYS), set(used) - set(names) - set(ALWAYS)
    silent = [claim for claim in day.claims if claim.name not in used]
    assert all("counted" in claim.because for claim in silent), silent
    for text in day.texts:
        rest = without_marked(text)
        assert not re.search(r"\[\[|\]\]", rest), f"day {day.number}: a mark that is not closed: {rest}"


@by_number
def test_every_claim_is_justified_and_no_range_covers_everything(day: Day) -> None:
    for claim in day.claims:
        assert len(claim.because) > 5, claim
        if isinstance(claim.test, Range):
            assert claim.test.within <= 5, f"{claim}: a range that wide teaches nothing; state a direction"
        if isinstance(claim.test, Order):
            assert claim.test.margin >= 0, claim


@by_number
def test_the_figures_of_a_day_are_in_folders_that_some_day_until_then_makes(day: Day) -> None:
    made = {path.rpartition("/")[0] for earlier in days()[: day.number] for path in earlier.makes}
    assert day.claims
    for claim in day.claims:
        for path in claim.test.paths:
            assert path.file.rpartition("/")[0] in made, claim


@by_number
def test_no_time_is_stated_but_as_less_saved_than_the_flops(day: Day) -> None:
    """A latency differs from machine to machine; that it falls by less than the FLOPs is what may be said."""
    for claim in day.claims:
        if any("latency" in path.key for path in claim.test.paths):
            assert isinstance(claim.test, Order), claim
            assert all("flops" in text for text in claim.test.higher), claim


# The test of a claim.


@given(value=st.floats(-1e6, 1e6), tolerance=st.floats(0, 1e3), off=st.floats(-1, 1))
def test_a_figure_holds_within_its_tolerance_only(value: float, tolerance: float, off: float) -> None:
    figure = Range(metric="f.yaml key", about=value, within=tolerance)
    assert figure.holds(value + off * tolerance * 0.999)
    assert not figure.holds(value + tolerance + 1)
    assert not figure.holds(value - tolerance - 1)
    assert not figure.holds(float("nan"))


def test_limits() -> None:
    assert Range(metric="f k", at_least=3).holds(3)
    assert not Range(metric="f k", at_least=3).holds(2.9)
    assert Range(metric="f k", at_most=3).holds(3)
    assert not Range(metric="f k", at_most=3).holds(3.1)
    assert not Range(metric="f k", at_most=3).holds(float("nan"))


def write(results: Path, **accuracies: float) -> None:
    for name, accuracy in accuracies.items():
        (results / name).mkdir(parents=True, exist_ok=True)
        (results / name / "metrics.yaml").write_text(yaml.safe_dump({"accuracy": accuracy}))


def accuracies_of(*names: str) -> tuple[str, ...]:
    return tuple(f"results/{name}/metrics.yaml accuracy" for name in names)


def above(name: str, higher: tuple[str, ...], lower: tuple[str, ...], margin: float) -> Claim:
    return Claim(name, Order(higher=higher, lower=lower, margin=margin), "said")


def figure(name: str, **limits: float) -> Claim:
    return Claim("x", Range(metric=name, **limits), "said")


def test_an_order_is_that_of_the_nearest_pair(tmp_path: Path) -> None:
    claim = above("best", accuracies_of("a", "b"), accuracies_of("c", "d"), 2)
    assert judge(claim, tmp_path).holds is None
    write(tmp_path, a=99, b=95, c=93, d=80)
    verdict = judge(claim, tmp_path)
    assert verdict.holds
    assert verdict.value == 2
    write(tmp_path, c=94)
    verdict = judge(claim, tmp_path)
    assert verdict.holds is False
    assert "only 1 apart, not 2" in verdict.said
    write(tmp_path, d=98)
    verdict = judge(claim, tmp_path)
    assert verdict.holds is False
    assert verdict.value == -3
    assert "the other way round: 99, 95 against 94, 98" in verdict.said


def test_a_figure_that_is_not_there_is_not_judged(tmp_path: Path) -> None:
    write(tmp_path, a=98.5)
    there, elsewhere = accuracies_of("a", "b")
    assert judge(figure(there, at_least=98), tmp_path).holds is True
    assert judge(figure(there, at_most=98), tmp_path).holds is False
    assert judge(figure(there, about=98, within=1), tmp_path).measured == "98.5"
    assert judge(figure("results/a/metrics.yaml loss", at_least=1), tmp_path).holds is None
    assert judge(figure(elsewhere, at_least=1), tmp_path).holds is None
    (tmp_path / "a" / "metrics.yaml").write_text("accuracy: .nan\n")
    assert judge(figure(there, at_least=1), tmp_path).holds is None


def test_a_key_reaches_into_tables_and_lists() -> None:
    content = {"rows": [{"name": "layer1.0", "points": [{"sparsity": 0.5, "accuracy": 97.5}]}]}
    assert look_up(content, "rows/name=layer1.0/points/sparsity=0.5/accuracy") == 97.5
    assert look_up(content, "rows/0/points/0/accuracy") == 97.5
    for key in ("rows/name=other/points", "rows/1", "nothing"):
        with pytest.raises(KeyError):
            look_up(content, key)


# What is shown.


def test_a_sentence_is_shown_with_its_claims_and_what_came_out(tmp_path: Path) -> None:
    text = "Look. [[best: A beats B.]] [[counted: 2 is more than 1.]] [[other: C is there.]]"
    claims = (
        above("best", accuracies_of("a"), accuracies_of("b"), 1),
        Claim("other", Range(metric=accuracies_of("c")[0], at_least=90), "said"),
    )
    assert render(text, with_names) == "Look. A beats B. [best] 2 is more than 1. C is there. [other]"
    write(tmp_path, a=97, b=95)
    shown = render(text, judged({claim.name: judge(claim, tmp_path) for claim in claims}))
    assert shown == "Look. ✓ A beats B. 2 is more than 1. C is there. [other]"
    write(tmp_path, a=94, c=80)
    shown = render(text, judged({claim.name: judge(claim, tmp_path) for claim in claims}))
    assert (
        "✗ *Not so here: here it was the other way round: 94 against 95 [best]. The course says:* A beats B." in shown
    )
    assert "✗ *Not so here: here it was 80 [other]. The course says:* C is there." in shown
    assert "✓" not in shown


def made_up_day7(results: Path, small_rate: float) -> None:
    write(results / "course", **{"fine_tune_lr0.001": small_rate, "fine_tune_lr0.5": 98.7})
    write(results / "course", fine_tune_3_epochs=98.4, fine_tune_distilled=99.1)
    write(results / "unstructured", **{"global_global_sp0.97": 99.1})


@pytest.mark.parametrize(("small_rate", "so"), [(95.0, True), (99.5, False)])
def test_a_day_whose_claim_is_false_here_says_so(
    small_rate: float, so: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_day7(tmp_path, small_rate)
    assert show_figures(days()[6], tmp_path) is so
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if "small_rate" in line)
    assert row.rstrip().endswith("✓ |" if so else "✗ |"), row
    show_day(days()[6], tmp_path)
    page = " ".join(capsys.readouterr().out.split())
    assert ("the other way round" in page) is not so
    assert ("✓ A fiftieth of the rate" in page) is so
