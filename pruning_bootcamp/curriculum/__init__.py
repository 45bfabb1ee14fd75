"""The 21 days as data, the pages and scripts written from them, and the course on the screen."""

from pruning_bootcamp.curriculum.allocation import ALLOCATION
from pruning_bootcamp.curriculum.automation import AUTOMATION
from pruning_bootcamp.curriculum.baseline import BASELINE
from pruning_bootcamp.curriculum.channels import CHANNELS
from pruning_bootcamp.curriculum.day import Day
from pruning_bootcamp.curriculum.dependencies import DEPENDENCIES
from pruning_bootcamp.curriculum.deployment import DEPLOYMENT
from pruning_bootcamp.curriculum.importance import IMPORTANCE
from pruning_bootcamp.curriculum.magnitude import MAGNITUDE
from pruning_bootcamp.curriculum.semi_structured import SEMI_STRUCTURED

WEEKS = ("zeros anywhere", "whole channels", "better choices, and all of it by itself")
DAYS: tuple[Day, ...] = (
    *BASELINE,
    *MAGNITUDE,
    *ALLOCATION,
    *CHANNELS,
    *DEPENDENCIES,
    *DEPLOYMENT,
    *IMPORTANCE,
    *SEMI_STRUCTURED,
    *AUTOMATION,
)
