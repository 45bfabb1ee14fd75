"""The compressions by name."""

from collections.abc import Callable

from pruning_bootcamp.flow.plan import Plan
from pruning_bootcamp.registry import Registry

# f(plan) -> None: adds its steps. Facts: `removes` or `quantizes` say what it does to the network; one that does
# neither recovers, and has to come after one that does. `once`: a second time in one plan makes no sense.
COMPRESSIONS: Registry[Callable[[Plan], None]] = Registry("pipeline step")
