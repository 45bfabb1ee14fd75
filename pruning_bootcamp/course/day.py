"""What a day of the course is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from pruning_bootcamp.course.claims import Claim

WEEKS = ("zeros anywhere", "whole channels", "better choices, and all of it by itself")


@dataclass(frozen=True, kw_only=True)
class CourseStep:
    """One command of a day, and why it is run. Words as one types them after `.venv/bin/`."""

    why: str
    command: str
    may_miss: bool = False
    """whether a goal not met (exit 3) is part of the lesson"""
    saves: str | None = None
    """where the command saves by itself, which another dataset's must be told"""


@dataclass(frozen=True)
class Question:
    ask: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class FrontMatter:
    """What the front matter says as it stands."""

    number: int
    topic: str
    """names the script: dayNN_<topic>.sh"""
    title: str
    makes: tuple[str, ...]
    """files that exist when the day is done"""
    needs: Mapping[str, int]
    """file -> the day that makes it"""
    seconds: int
    """measured on two cores that others use too"""

    @property
    def week(self) -> int:
        """1 to 3."""
        return (self.number - 1) // 7 + 1

    @property
    def script(self) -> str:
        """The day's script, seen from the repository's root."""
        return f"scripts/day{self.number:02}_{self.topic}.sh"

    @property
    def file(self) -> str:
        """The day's Markdown, seen from the repository's root."""
        return f"pruning_bootcamp/course/days/day{self.number:02}.md"


@dataclass(frozen=True, kw_only=True)
class Day(FrontMatter):
    """One lesson: what it teaches, what is typed, what is seen, what must exist afterwards."""

    learn: tuple[str, ...]
    why: str
    idea: str
    """Markdown: the method with its formula and paper"""
    steps: tuple[CourseStep, ...]
    see: str
    claims: tuple[Claim, ...]
    questions: tuple[Question, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it says in words, but for its commands."""
        questions = (text for question in self.questions for text in (question.ask, question.answer))
        return (*self.learn, self.why, self.idea, *(step.why for step in self.steps), self.see, *questions)
