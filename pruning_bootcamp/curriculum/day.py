"""What a day of the course is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from pruning_bootcamp.curriculum.claims import Claim

# How most commands begin. dataset.py says what DATASET=cifar10 makes of them.
TRAIN = "pruning-bootcamp train -c cfgs/digits.yaml"
EVAL = "pruning-bootcamp eval -c cfgs/digits.yaml"
WEIGHTS = "pruning-bootcamp prune-unstructured -c cfgs/digits.yaml"
CUT = "pruning-bootcamp prune-structured -c cfgs/digits.yaml"
# Labels alone bring half the network back to within the goal or just outside, by the number of threads.
DISTILLED = "fine_tune.epochs=30ep fine_tune.lr=0.02 fine_tune.distill=0.9"
EXPORT = "pruning-bootcamp export -c cfgs/digits.yaml"
PROFILE = "pruning-bootcamp profile -c cfgs/digits.yaml"

DENSE = "results/baseline/best_model.pth"


@dataclass(frozen=True)
class Step:
    """One command of a day, and why it is run. Words as one types them after `.venv/bin/`."""

    why: str
    command: str
    may_miss: bool = False
    """whether a goal not met (exit 3) is part of the lesson"""
    saves: str | None = None
    """where the command saves by itself, which another dataset's must be told"""

    @property
    def program(self) -> str:
        return self.command.split()[0]


@dataclass(frozen=True)
class Question:
    ask: str
    answer: str


def metrics_of(folder: str) -> str:
    return f"results/{folder}/metrics.yaml"


@dataclass(frozen=True)
class Day:
    """One lesson: what it teaches, what is typed, what is seen, what must exist afterwards."""

    number: int
    topic: str
    """names the script: dayNN_<topic>.sh"""
    title: str
    learn: tuple[str, ...]
    why: str
    idea: str
    """Markdown: the method with its formula and paper"""
    steps: tuple[Step, ...]
    see: str
    claims: tuple[Claim, ...]
    questions: tuple[Question, ...]
    makes: tuple[str, ...]
    """files that exist when the day is done"""
    needs: Mapping[str, int]
    """file -> the day that makes it"""
    seconds: int
    """measured on two cores that others use too"""

    @property
    def week(self) -> int:
        return (self.number - 1) // 7 + 1

    @property
    def script(self) -> str:
        return f"scripts/day{self.number:02}_{self.topic}.sh"

    @property
    def page(self) -> str:
        return f"docs/course/day{self.number:02}.md"

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it says in words, but for its commands."""
        questions = (text for question in self.questions for text in (question.ask, question.answer))
        return (*self.learn, self.why, self.idea, *(step.why for step in self.steps), self.see, *questions)
