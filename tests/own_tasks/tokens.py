"""A language model of the user's own: int64 tokens in, scores of the next token out, perplexity (lower is better)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning_bootcamp.tasks import Classification, Metric
from pruning_bootcamp.tools.datasets import Splits, TensorSplit

KINDS = 12


class NextToken(Classification):
    """The next token at each place of a sequence, judged by perplexity."""

    metric = Metric("perplexity", unit="", higher_is_better=False)
    noun = "sequences"
    dim = -1

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.losses(outputs.detach(), targets).sum()[None]

    def score(self, sums: Sequence[float], samples: int) -> float:
        return math.exp(sums[0] / samples)


def sequences(*, count: int = 360, length: int = 12) -> Splits:
    """Each token is the sum of the two before it, now and then another one."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(KINDS, (count, length + 1), generator=generator)
    for place in range(2, length + 1):
        rule = (tokens[:, place - 1] + tokens[:, place - 2]) % KINDS
        as_ruled = torch.rand(count, generator=generator) < 0.95
        tokens[:, place] = torch.where(as_ruled, rule, tokens[:, place])
    ends = ((0, count * 2 // 3), (count * 2 // 3, count * 5 // 6), (count * 5 // 6, count))
    train, val, test = (TensorSplit(tokens[a:b, :-1], tokens[a:b, 1:]) for a, b in ends)
    return Splits("sequences", train, val, test, tuple(map(str, range(KINDS))), (length,))


class Block(nn.Module):
    """What the last two tokens say, through a hidden layer, added to the stream."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(2 * width, hidden)
        self.output_proj = nn.Linear(hidden, width)

    def forward(self, stream: Tensor) -> Tensor:
        now = self.norm(stream)
        before = torch.cat([torch.zeros_like(now[:, :1]), now[:, :-1]], dim=1)
        return stream + self.output_proj(torch.relu(self.fc(torch.cat([now, before], dim=2))))


class Net(nn.Module):
    def __init__(self, classes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.blocks = nn.Sequential(*(Block(width, hidden) for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.blocks(self.embedding(tokens))
        return self.head(stream), stream.mean((1, 2))


def build(*, classes: int, width: int = 24, hidden: int = 64) -> nn.Module:
    return Net(classes, width, hidden)
