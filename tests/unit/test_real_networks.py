"""benchmarks/real_networks.py: what is left out and why, and that what judges did not calibrate; no weights needed."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(REPOSITORY / "benchmarks" / "real_networks.py"), run_name="real_networks")


@pytest.mark.parametrize("network", ["efficientnet", "minilm"])
def test_weights_that_are_not_there_are_named(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "nowhere"
    monkeypatch.setattr(sys, "argv", ["real_networks.py", network, "--weights", str(weights)])
    assert TOOL["main"]() == 0
    assert f"skipped: {weights}" in capsys.readouterr().out


def test_no_photo_and_no_sentence_is_on_both_sides(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    learnt, judged = TOOL["photos_apart"](tmp_path)
    assert (len(learnt), len(judged)) == (3, 2)
    assert not set(learnt) & set(judged)
    assert TOOL["crops"](learnt, 4, 16, 0).shape == (4, 3, 16, 16)
    fitted, held = TOOL["sentences_apart"]()
    assert min(len(fitted), len(held)) > 500
    assert not set(fitted) & set(held)


def test_words_become_the_longest_pieces_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "cafe", "."]))
    tokens = TOOL["Tokens"](tmp_path / "vocab.txt", length=8)
    assert tokens(["Unable café."]).tolist() == [[2, 4, 5, 6, 7, 3, 0, 0]]


def test_the_encoder_has_every_tensor_and_no_padding_in_its_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    width, prefix = 24, "embeddings."
    given = {f"{prefix}word_embeddings.weight": torch.randn(9, width)}
    given |= {f"{prefix}position_embeddings.weight": torch.randn(8, width)}
    given |= {f"{prefix}token_type_embeddings.weight": torch.randn(2, width)}
    shapes = {"up": (96, 24), "down": (24, 96)}
    names = [("", f"{prefix}LayerNorm"), *TOOL["_layer_names"](6)]
    for ours, theirs in names:
        kind = ours.rpartition(".")[2]
        normalises = kind in ("", "norm1", "norm2")
        shape = (width,) if normalises else shapes.get(kind, (width, width))
        given[f"{theirs}.weight"], given[f"{theirs}.bias"] = torch.randn(shape), torch.randn(shape[0])
    save_file(given, tmp_path / "model.safetensors")
    encoder = TOOL["SentenceEncoder"](tmp_path / "model.safetensors").eval()
    short, padded = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 3, 0, 0]])
    with torch.inference_mode():
        assert torch.allclose(encoder(short), encoder(padded), atol=1e-5)
        assert float(encoder(short).norm()) == pytest.approx(1, abs=1e-5)
