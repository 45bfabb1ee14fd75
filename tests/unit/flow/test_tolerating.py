"""The search within so many points: which share is tried next, and which is taken, by made-up drops."""

import dataclasses

import pytest

from pruning_bootcamp.flow.commands.tolerating import next_share
from pruning_bootcamp.results import Search, SearchTrial


@pytest.mark.parametrize("most", [0.1, 0.37, 0.5, 0.83])
def test_the_largest_share_within_the_limit_is_closed_in_on(most: float) -> None:
    search = Search(limit=1.0, by="flops_reduction", trials=())
    while (share := next_share(search)) is not None:
        trial = SearchTrial(share=share, drop=(share / most) ** 2)
        search = dataclasses.replace(search, trials=(*search.trials, trial))
    assert search.best is not None
    assert most - 0.05 < search.best.share <= most
    assert len(search.trials) <= 8


def test_what_loses_just_the_limit_is_within_and_what_can_not_be_cut_is_not() -> None:
    just, beyond = SearchTrial(share=0.4, drop=1.0), SearchTrial(share=0.5, drop=1.0001)
    nothing = SearchTrial(share=0.9, drop=None, why="too much")
    search = Search(limit=1.0, by="flops_reduction", trials=(just, beyond, nothing))
    assert [search.allows(trial) for trial in search.trials] == [True, False, False]
    assert search.best is just
    share = next_share(search)
    assert share is not None
    assert 0.4 < share < 0.5
