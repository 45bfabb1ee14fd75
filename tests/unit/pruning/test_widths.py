"""A plan's cost is the count of a really cut copy, also where a product's width can't be told from its weights."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.widths import (
    Budget,
    Limits,
    ScoredNetwork,
    choose_widths,
    cut_one_by_one,
    keep_masks,
)
from pruning_bootcamp.pruning.graph import Group, Member, cut_members
from pruning_bootcamp.tools.metrics import count_macs, count_products

TOKENS, WIDTH, KEYS, VALUES, CLASSES = 5, 8, 24, 40, 4


class Attention(nn.Module):
    """One head by hand: its two products have no weight, and get cheaper when keys or values get narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, KEYS), nn.Linear(WIDTH, KEYS)
        self.value, self.head = nn.Linear(WIDTH, VALUES), nn.Linear(VALUES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).mT
        return self.head(scores.softmax(-1) @ self.value(x))


def by_hand(keys: int, values: int) -> int:
    projections = TOKENS * (2 * WIDTH * keys + WIDTH * values + values * CLASSES)
    return projections + TOKENS * TOKENS * (keys + values)


def member(model: nn.Module, path: str, kind: str, size: int) -> Member:
    each = torch.arange(size)
    return Member(path, model.get_submodule(path), kind, size, each, each)  # type: ignore[arg-type]


def groups_of(model: nn.Module) -> list[Group]:
    """The graph refuses attention, so they are put together here."""
    keys = (member(model, "query", "output", KEYS), member(model, "key", "output", KEYS))
    values = (member(model, "value", "output", VALUES), member(model, "head", "input", VALUES))
    return [Group("query", KEYS, keys), Group("value", VALUES, values)]


def network() -> ScoredNetwork:
    torch.manual_seed(0)
    model, example = Attention(), torch.zeros(1, TOKENS, WIDTH)
    groups = groups_of(model)
    scores = {group.name: torch.rand(group.width) for group in groups}
    return ScoredNetwork(model, example, groups, scores, count_products(model, example)[0], {})


@pytest.mark.parametrize("asked", [0.2, 0.5, 0.8])
def test_a_budget_is_met_where_attention_gets_cheaper_too(asked: float) -> None:
    it = network()
    budget = Budget("flops_reduction", asked, "global", {})
    choice = choose_widths(it, budget, Limits(1, 0.95), falls_back=False)
    assert choice.problem is None
    widths = [group.width - len(choice.gone(group.name)) for group in it.groups]
    assert choice.after["macs"] == by_hand(*widths)
    assert choice.before["macs"] == by_hand(KEYS, VALUES)
    assert asked - 1e-9 <= 1 - by_hand(*widths) / by_hand(KEYS, VALUES) <= asked + 0.01


def test_single_cuts_teach_the_cost_of_every_combination() -> None:
    it = network()
    budget = Budget("flops_reduction", 0.5, "global", {})
    schedules = list(choose_widths(it, budget, Limits(1, 0.95), falls_back=False).schedules.values())
    single = cut_one_by_one(it.model, it.groups, schedules, it.example)
    for keys, values in itertools.product((0, 1, 7, 20), (0, 3, 30)):
        costs = Costs(it.model, it.groups, it.example, it.products)
        assert costs.learn(single)
        costs.change("query", range(keys))
        costs.change("value", range(values))
        assert costs.amount["macs"] == pytest.approx(by_hand(KEYS - keys, VALUES - values), rel=1e-12)
        cut = Attention()
        cut_members(cut, it.groups, keep_masks(it.groups, {"query": tuple(range(keys)), "value": tuple(range(values))}))
        assert count_macs(cut, it.example) == by_hand(KEYS - keys, VALUES - values)


def test_nothing_is_learned_from_a_copy_that_runs_other_operations() -> None:
    it = network()
    costs = Costs(it.model, it.groups, it.example, it.products)
    assert not costs.learn({"query": (1, it.products[:-1])})
    costs.correct(-100.0)
    assert costs.amount["macs"] == by_hand(KEYS, VALUES) - 100


class Halving(nn.Module):
    """Runs its second layer only while the first is wide: no product's size tells that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 64), nn.Linear(8, 32), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.first(x).relu())
        return y + self.second(x).mean(-1, keepdim=True) if self.first.out_features > 60 else y


def test_what_no_product_tells_is_corrected_by_the_count() -> None:
    torch.manual_seed(0)
    model, example = Halving(), torch.zeros(1, 8)
    members = (member(model, "first", "output", 64), member(model, "head", "input", 64))
    it = ScoredNetwork(
        model,
        example,
        [Group("first", 64, members)],
        {"first": torch.rand(64)},
        count_products(model, example)[0],
        {},
    )
    choice = choose_widths(
        it,
        Budget("flops_reduction", 0.5, "global", {}),
        Limits(1, 0.95),
        falls_back=False,
    )
    kept = 64 - len(choice.gone("first"))
    assert choice.after["macs"] == kept * 12  # 8 inputs, 4 outputs; the second layer is gone
    assert choice.problem is None
    assert choice.achieved == 1 - kept * 12 / (64 * 12 + 8 * 32)
    assert choice.achieved == pytest.approx(0.5, abs=0.01)
