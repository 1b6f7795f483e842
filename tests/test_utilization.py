"""Model FLOPs utilization: products counted by hand, and peaks of cards that are known by their whole names only."""

from __future__ import annotations

import pytest
import torch

from klieg import models
from klieg.config import BertConfig, LlamaConfig, MarianConfig
from klieg.pairs import PairBatch
from klieg.recipe import MaskTraining, PairTraining, RowTraining
from klieg.rows import Batch
from klieg.utilization import PEAKS, operations, peak

ROWS = RowTraining(steps=1, batch=3, context=8)
MASKS = MaskTraining(steps=1, batch=3, context=8)
PAIRS = PairTraining(steps=1, batch_tokens=60)


def rows(predicted: int) -> Batch:
    """Three rows of eight tokens."""
    targets = torch.full((24,), -100)
    targets[:predicted] = 1
    return Batch(torch.zeros(3, 8, dtype=torch.int64), targets.view(3, 8), torch.zeros(3, 8, dtype=torch.int64))


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_is_counted_as_by_hand(tied: bool) -> None:
    """Two layers 16 wide: q and output 16 x 16, k and v 16 x 8, three matrices of 16 x 40; 50 logits; four heads of four."""
    model = models.build(LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=4, max_position_embeddings=8, tie_word_embeddings=tied))
    layer = 16 * 16 + 16 * 8 + 16 * 8 + 16 * 16 + 3 * 16 * 40
    there = 24 * 2 * 2 * layer + 20 * 2 * 16 * 50 + 3 * 8 * 8 * 2 * (2 * 16 + 2 * 16)
    assert operations(model, rows(20), ROWS) == 3 * there


def test_an_encoder_is_asked_for_the_chosen_tokens_alone() -> None:
    model = models.build(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                                    intermediate_size=40, max_position_embeddings=8))
    layer = 4 * 16 * 16 + 2 * 16 * 40
    there = 24 * 2 * 2 * layer + 5 * 2 * (16 * 16 + 16 * 50) + 3 * 8 * 8 * 2 * (2 * 16 + 2 * 16)
    assert operations(model, rows(5), MASKS) == 3 * there


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("r_drop", [0.0, 1.0])
def test_a_translator_reads_and_writes(learned: bool, r_drop: float) -> None:
    """Of 2 x 6 source tokens 9 are real, of 2 x 4 others 5 are written; keys and values of the memory are of what is read."""
    model = models.build(MarianConfig(
        vocab_size=50, d_model=16, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=40, decoder_ffn_dim=24, max_position_embeddings=8, learned_positions=learned,
        pad_token_id=2, eos_token_id=1, decoder_start_token_id=2, scale_embedding=True))
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, 3:] = False
    targets = torch.tensor([[1, 1, 1, 1], [1, -100, -100, -100]])
    batch = PairBatch(torch.zeros(2, 6, dtype=torch.int64), real, torch.zeros(2, 4, dtype=torch.int64), targets)
    square = 16 * 16
    read = 9 * 2 * (3 * (4 * square + 2 * 16 * 40) + 2 * 2 * square)
    written = 5 * 2 * (2 * (4 * square + 2 * square + 2 * 16 * 24) + 16 * 50)
    pairs = 2 * (3 * 6 * 6 + 2 * (4 * 4 + 4 * 6)) * (2 * 16 + 2 * 16)
    train = PairTraining(steps=1, batch_tokens=60, r_drop=r_drop)
    assert operations(model, batch, train) == (2 if r_drop else 1) * 3 * (read + written + pairs)


@pytest.mark.parametrize(("name", "most"), [("NVIDIA H200", 989e12), ("NVIDIA A100 80GB PCIe", 312e12), ("NVIDIA L40S", 362e12),
                                            ("NVIDIA H200 NVL", None), ("NVIDIA L40", None), ("Tesla V100-SXM2-16GB", None),
                                            ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA GH200 480GB", None)])
def test_a_peak_is_known_by_the_whole_name(monkeypatch: pytest.MonkeyPatch, name: str, most: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak(torch.device("cuda")) == most and (most is None) == (name not in PEAKS)
    assert peak(torch.device("cpu")) is None
