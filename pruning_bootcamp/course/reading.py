"""A day's file -> a Day: front matter in YAML, then the sections of SECTIONS in Markdown; all problems at once."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, TypeVar

import yaml

from pruning_bootcamp.course.claims import REASONS, Claim, MetricPath, Order, Range
from pruning_bootcamp.course.day import CourseStep, Day, FrontMatter, Question
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.schema import check_settings

SECTIONS = ("What you learn", "Why", "The idea", "What you should see", "Questions")
FORM = f"A day is `---`, its front matter, `---`, and then the sections {', '.join(SECTIONS)}."
Made = TypeVar("Made")


@functools.cache
def days() -> tuple[Day, ...]:
    """The days in order."""
    folder = resources.files("pruning_bootcamp.course") / "days"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".md")), key=lambda file: file.name)
    return tuple(read_day(file.read_text(encoding="utf-8"), file.name) for file in files)


def read_day(text: str, where: str) -> Day:
    """The day that a file's text says; a BootcampError that names the file and every key that is wrong."""
    found = re.fullmatch(r"---\n(.*?)^---\n(.*)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise BootcampError(f"there is no front matter. {FORM}", where=where)
    try:
        front = yaml.safe_load(found.group(1))
    except yaml.YAMLError as error:
        raise BootcampError(f"the front matter is not YAML: {error}", where=where) from None
    if not isinstance(front, dict):
        raise BootcampError(f"the front matter is no table of names and values. {FORM}", where=where)
    problems: list[str] = []
    steps = [_made(CourseStep, entry, where, problems) for where, entry in _listed(front, "steps", problems)]
    claims = [_claim(entry, where, problems) for where, entry in _listed(front, "claims", problems)]
    front_matter = _made(FrontMatter, front, "", problems)
    body = _sections(found.group(2), problems)
    if problems or front_matter is None:
        raise BootcampError(*problems, where=where)
    learn = re.split(r"^- ", body["What you learn"], flags=re.MULTILINE)[1:]
    return Day(
        **vars(front_matter),
        steps=tuple(step for step in steps if step is not None),
        claims=tuple(claim for claim in claims if claim is not None),
        learn=tuple(" ".join(line.split()) for line in learn),
        why=body["Why"],
        idea=body["The idea"],
        see=body["What you should see"],
        questions=tuple(_questions(body["Questions"])),
    )


def _made(kind: Callable[..., Made], given: Any, where: str, problems: list[str]) -> Made | None:
    """What the table describes, checked against the fields of `kind`; None, with its problems, where it can't be."""
    if not isinstance(given, Mapping):
        problems.append(f"{where}: {given!r} is not a table of names and values.")
        return None
    checked, wrong = check_settings(kind, given, where=where)
    problems += [str(problem).removeprefix(".") for problem in wrong]
    return None if wrong else kind(**checked)


def _listed(front: dict[str, Plain], key: str, problems: list[str]) -> list[tuple[str, Any]]:
    """The entries of the list at `key`, which is taken out, each with where it stands."""
    value = front.pop(key, None)
    if not isinstance(value, list) or not value:
        problems.append(f"{key}: a list of one or more is needed.")
        return []
    return [(f"{key}[{place}]", entry) for place, entry in enumerate(value)]


def _claim(given: Any, where: str, problems: list[str]) -> Claim | None:
    """A Claim from `name`, `because` and the fields of a Range or an Order."""
    fields = dict(given) if isinstance(given, Mapping) else {}
    name, because = fields.pop("name", None), fields.pop("because", None)
    if not isinstance(name, str) or not isinstance(because, str):
        problems.append(f"{where}: a table with name, because and the fields of a range or an order is needed.")
        return None
    test: Range | Order | None
    if "higher" in fields:
        test = _made(Order, fields, where, problems)
    else:
        test = _made(Range, fields, where, problems)
        if test is not None and (test.about, test.at_least, test.at_most).count(None) != 2:
            problems.append(f"{where}: one of about, at_least and at_most is needed.")
    if test is None:
        return None
    problems += [f"{where}: '{path.text}' is no FILE KEY." for path in test.paths if not _is_metric_path(path)]
    return Claim(name, test, REASONS.get(because, because))


def _is_metric_path(path: MetricPath) -> bool:
    return path.file.startswith("results/") and bool(path.key) and " " not in path.key


def _sections(text: str, problems: list[str]) -> dict[str, str]:
    """Heading -> text below it."""
    start, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    found = {title: body.strip("\n") for title, body in zip(parts[::2], parts[1::2], strict=True)}
    if start.strip() or tuple(parts[::2]) != SECTIONS or not all(found.values()):
        problems.append(f"its sections are {', '.join(parts[::2]) or 'none'}. {FORM}")
    return found


def _questions(text: str) -> Iterator[Question]:
    """A heading asks, what is below it answers."""
    parts = re.split(r"^### (.+)\n", text, flags=re.MULTILINE)[1:]
    for ask, answer in zip(parts[::2], parts[1::2], strict=True):
        yield Question(ask, answer.strip("\n"))
