"""MHA, GQA and MQA: what heads that share their keys and values save in the cache, gain in speed, and lose in quality."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean, median

import torch
from torch import Tensor

from klieg.config import LlamaConfig
from klieg.labs import Finding, Lab, language, repeatable
from klieg.layers import Observation
from klieg.models import build
from klieg.recipe import RowTraining
from klieg.rows import Batch
from klieg.train import Stepper
from klieg.views.chart import Chart, Words

HEADS = 8
WAYS = {"MHA": 8, "GQA": 2, "MQA": 1}                    # groups of heads, each with keys and values of its own
# T5-XXL: seconds a sample and mean score over its tasks (Ainslie et al. 2023, table 1; its GQA has 8 groups for 64 heads).
PUBLISHED = {"MHA": (1.51, 47.2), "GQA": (0.28, 47.1), "MQA": (0.24, 46.6)}
SEEDS, STEPS, CONTEXT, BATCH, HELD_OUT = (0, 1, 2), 200, 128, 8, 256
PROMPT, TEXTS, ROUNDS = 2048, 8, 40                      # of the measurement of speed

ByWay = Mapping[str, float]


def run(seeds: Sequence[int] = SEEDS, steps: int = STEPS, prompt: int = PROMPT, rounds: int = ROUNDS,
        held_out: int = HELD_OUT) -> Finding:
    """The cache and the speed with `prompt` tokens before, and the loss after `steps` of training from each seed."""
    held, speed = _decoded(prompt, rounds)
    losses: dict[str, list[float]] = {name: [] for name in WAYS}
    for seed in seeds:
        for name, loss in _trained(seed, steps, held_out).items():
            losses[name].append(loss)
    numbers = {f"bytes a token, {name}": held[name] for name in WAYS}
    numbers |= {f"loss, {name}, seed {seed}": x for name in WAYS for seed, x in zip(seeds, losses[name], strict=True)}
    measured = {f"tokens a second, {name}": speed[name] for name in WAYS}
    return Finding(_charts(held, speed, losses), _conclusion(held, speed, losses, prompt), numbers, measured)


def shape(groups: int, width: int, inner: int, layers: int, positions: int) -> LlamaConfig:
    """A decoder with `groups` of keys and values. What they save of its parameters the feed-forward gets (Shazeer 2019)."""
    head = width // HEADS
    return LlamaConfig(vocab_size=language.VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=HEADS,
                       intermediate_size=inner + 2 * (HEADS - groups) * head // 3, num_key_value_heads=groups, head_dim=head,
                       max_position_embeddings=positions, tie_word_embeddings=True)


@torch.inference_mode()
def _decoded(prompt: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes that the caches hold for a token, and the tokens that come a second; the three take turns, a step each."""
    held, models, caches, ids = {}, {}, {}, {}
    for name, groups in WAYS.items():
        with repeatable(seed=0):
            model = models[name] = build(shape(groups, width=384, inner=1024, layers=2, positions=prompt + rounds)).eval()
        cache = caches[name] = model.new_cache(TEXTS)
        storages: dict[int, int] = {}
        before = language.write(TEXTS, prompt, torch.Generator().manual_seed(0)).ids
        hidden = model.hidden(before, cache=cache, observe=partial(_note, storages))
        ids[name] = model.head(hidden[:, -1:]).argmax(-1)
        held[name] = sum(storages.values()) / (TEXTS * cache.capacity)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, model in models.items():
            started = time.perf_counter()
            ids[name] = model.head(model.hidden(ids[name], cache=caches[name])).argmax(-1)
            times[name].append(time.perf_counter() - started)
    return held, {name: TEXTS / median(each) for name, each in times.items()}


def _note(storages: dict[int, int], seen: Observation) -> None:
    """Where the keys and values that attention was given lie, and how many bytes were taken there."""
    for x in (seen.k, seen.v):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()


def _trained(seed: int, steps: int, rows: int) -> dict[str, float]:
    """Nats a token by which each way's loss on held-out text is above the language's own entropy, after the same training."""
    settings = RowTraining(steps=steps, batch=BATCH, context=CONTEXT, learning_rate=3e-3, final_learning_rate=3e-4,
                           warmup=steps // 10)
    held_out = language.write(rows, CONTEXT + 1, torch.Generator().manual_seed(2**32))       # the seed of no training
    ids = language.write(steps * BATCH, CONTEXT + 1, torch.Generator().manual_seed(seed)).ids
    found = {}
    for name, groups in WAYS.items():
        with repeatable(seed):
            model = build(shape(groups, width=96, inner=256, layers=2, positions=CONTEXT))
            step = Stepper(model, settings)
            for n, part in enumerate(ids.split(BATCH)):
                step(n, [_batch(part)])
            with torch.no_grad():
                loss = _batch(held_out.ids).loss(model, settings).item()
        found[name] = loss - held_out.surprisal[:, 1:].mean().item()
    return found


def _batch(rows: Tensor) -> Batch:
    """Every token after the first is predicted; a row is one document."""
    return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), torch.zeros_like(rows[:, :-1]))


def _charts(held: ByWay, speed: ByWay, losses: Mapping[str, Sequence[float]]) -> tuple[Chart, ...]:
    names = tuple(f"{name}, {groups}" for name, groups in WAYS.items())
    slowest, first = PUBLISHED["MHA"][0], speed["MHA"]
    each = "groups of heads", "头的组数"
    return (
        Chart(("The KV cache", "KV 缓存"), each, names, ("bytes a token", "字节/词元"),
              {("keys and values", "键和值"): [held[name] for name in WAYS]}, bars=True),
        Chart(("Speed of decoding, MHA is 1", "解码速度，以 MHA 为 1"), each, names, ("times as fast", "倍"),
              {("here", "此处"): [speed[name] / first for name in WAYS],
               ("T5-XXL, published", "T5-XXL，论文"): [slowest / PUBLISHED[name][0] for name in WAYS]}, bars=True),
        Chart(("Loss on held-out text, above the language's own entropy", "留出文本上的损失超出语言自身熵多少"), each, names,
              ("nats a token", "奈特/词元"),
              {("the lowest of all trainings", "各次训练中最低"): [min(losses[name]) for name in WAYS],
               ("mean", "平均"): [mean(losses[name]) for name in WAYS],
               ("the highest", "最高"): [max(losses[name]) for name in WAYS]}, bars=True))


def _conclusion(held: ByWay, speed: ByWay, losses: Mapping[str, Sequence[float]], prompt: int) -> Words:
    """What sharing saves, gains and loses beside MHA, and the published figures of a model of 11 billion parameters."""
    less = {name: held["MHA"] / held[name] for name in WAYS}
    faster = {name: speed[name] / speed["MHA"] for name in WAYS}
    english = [f"With {WAYS['GQA']} groups for {HEADS} heads the cache is {less['GQA']:g} times smaller, with one "
               f"{less['MQA']:g} times. After {prompt:,} tokens GQA decodes {faster['GQA']:.2f} times and MQA "
               f"{faster['MQA']:.2f} times as fast as MHA on this machine."]
    chinese = [f"{HEADS} 个头分成 {WAYS['GQA']} 组，缓存只要 1/{less['GQA']:g}；只有一组时为 1/{less['MQA']:g}。"
               f"前面有 {prompt:,} 个词元时，这台机器上 GQA 的解码速度是 MHA 的 {faster['GQA']:.2f} 倍，"
               f"MQA 是 {faster['MQA']:.2f} 倍。"]
    for name in ("GQA", "MQA"):
        one, other = _quality(name, losses[name], losses["MHA"])
        english.append(one)
        chinese.append(other)
    published = [f"{name} {seconds} s / {score}" for name, (seconds, score) in PUBLISHED.items()]
    english.append(f"Published of T5-XXL, time a sample / mean score: {', '.join(published)}.")
    chinese.append(f"论文中的 T5-XXL，每个样本的时间 / 平均得分：{'、'.join(published)}。")
    return " ".join(english), "".join(chinese)


def _quality(name: str, losses: Sequence[float], beside: Sequence[float]) -> Words:
    """The loss beside MHA's, against how far apart two trainings of MHA are by their seeds alone."""
    gap, spread = mean(losses) - mean(beside), max(beside) - min(beside)
    english = (f"Trained alike, with as many parameters, {name}'s loss is {gap:+.4f} nats from MHA's, whose own trainings are "
               f"{spread:.4f} apart: ")
    chinese = f"参数一样多、训练相同，{name} 的损失与 MHA 相差 {gap:+.4f} 奈特，而 MHA 换种子就相差 {spread:.4f}："
    if gap > spread:
        return english + "it costs quality.", chinese + "质量有损失。"
    if gap >= -spread:
        return english + "no loss is seen.", chinese + "看不出损失。"
    return english + "it is better, its feed-forward being wider.", chinese + "反而更好，因为前馈层更宽。"


LAB = Lab(("MHA, GQA and MQA", "MHA、GQA 与 MQA"),
          ("Heads that share keys and values save most of the KV cache and decode faster, and nearly nothing is lost.",
           "多个头共用键和值，可省下大部分 KV 缓存，解码更快，质量几乎不受影响。"),
          "Shazeer 2019 (MQA); Ainslie et al. 2023 (GQA), table 1", run)
