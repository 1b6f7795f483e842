"""RNN, LSTM, CNN and Transformer at the same tasks: how far back they remember, what gradient gets there, and the time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from klieg.labs import Finding, Lab, repeatable
from klieg.labs.questions import VALUES, ask, vocabulary
from klieg.labs.readers import REACH, READERS, Reader, reader
from klieg.recipe import Training
from klieg.train import Stepper
from klieg.views.chart import Chart, Words

STEPS = {1: 300, 4: 500}                                  # of training, by the number of keys; one key is copying
LENGTH, BATCH, HELD_OUT = 64, 32, 1024
EDGES = (1, 4, 7, 13, 25, 49, 64)                         # distances from one to the next are counted together
DISTANCES = (1, 2, 4, 8, 16, 32, 63)                      # at which the gradient is looked at
LENGTHS, TEXTS, ROUNDS = (32, 64, 128, 256, 512), 8, 5          # of the measurement of time
SURE = 0.9                                                # the share of right answers that counts as remembering

ByReader = dict[str, list[float]]


def run(steps: Mapping[int, int] = STEPS, lengths: Sequence[int] = LENGTHS, rounds: int = ROUNDS,
        held_out: int = HELD_OUT) -> Finding:
    """Each reader learns each task from the same seed, and answers in new texts; then it reads `lengths` on the clock."""
    right: dict[int, ByReader] = {keys: {} for keys in steps}
    back: dict[str, ByReader] = {"fresh": {}, "trained": {}}
    numbers: dict[str, float] = {}
    for name in READERS:
        for keys, count in steps.items():
            with repeatable(seed=0):
                model = reader(name, vocabulary(keys))
                before = gradients(model)
                learn(model, keys, count)
                right[keys][name] = accuracy(model, keys, held_out)
                if keys == 1:
                    back["fresh"][name], back["trained"][name] = before, gradients(model)
            numbers |= {f"right, {name}, keys {keys}, from {n} back": x
                        for n, x in zip(EDGES, right[keys][name], strict=False)}
            numbers[f"parameters, {name}, keys {keys}"] = sum(p.numel() for p in model.parameters())
    numbers |= {f"gradient, {name}, {when}, {n} back": x for when, found in back.items() for name, row in found.items()
                for n, x in zip(DISTANCES, row, strict=True)}
    seconds = step_times(lengths, rounds)
    measured = {f"seconds, {name}, n {n}": x for name in READERS for n, x in zip(lengths, seconds[name], strict=True)}
    return Finding(_charts(right, back, lengths, seconds), _conclusion(numbers, tuple(steps), lengths, seconds), numbers,
                   measured)


def learn(model: Reader, keys: int, steps: int) -> None:
    """Train on fresh questions every step, with the loop and the settings that all readers have in common."""
    settings = Training(steps=steps, learning_rate=3e-3, final_learning_rate=3e-4, warmup=20, weight_decay=0.01)
    step, chance = Stepper(model, settings), torch.Generator().manual_seed(1)
    for n in range(steps):
        step(n, [ask(keys, BATCH, LENGTH, chance)])


@torch.no_grad()
def accuracy(model: Reader, keys: int, texts: int) -> list[float]:
    """The share of right answers in new texts, for each stretch of distances."""
    asked = ask(keys, texts, LENGTH, torch.Generator().manual_seed(2))
    right, far = model(asked.ids).argmax(-1) == asked.answers, asked.distance
    return [right[(far >= a) & (far < b)].double().mean().item() for a, b in zip(EDGES, EDGES[1:], strict=False)]


def gradients(model: Reader) -> list[float]:
    """How much of the loss of a question gets back to the token that answers it, for each of DISTANCES.

    The norm of the loss's gradient to that token's embedding, as a share of that to the question's own; means over texts.
    """
    chance, found = torch.Generator().manual_seed(3), []
    for distance in DISTANCES:
        ids = torch.randint(VALUES, (BATCH, LENGTH), generator=chance)
        answers = torch.randint(VALUES, (BATCH,), generator=chance)
        ids[:, -1], ids[:, -1 - distance] = VALUES, VALUES + 1 + answers
        embedded = model.embedding(ids).detach().requires_grad_()
        logits = model.head(model.hidden(embedded)[:, -1])
        torch.nn.functional.cross_entropy(logits, answers).backward()
        norms = embedded.grad.double().norm(dim=-1).mean(0)
        found.append((norms[-1 - distance] / norms[-1]).item())
    model.zero_grad(set_to_none=True)
    return found


def step_times(lengths: Sequence[int], rounds: int) -> ByReader:
    """Seconds of a pass there and back over TEXTS texts of each length: medians of rounds in which the readers take turns."""
    with torch.random.fork_rng(devices=[]):
        models = {name: reader(name, vocabulary(1)) for name in READERS}
    found: ByReader = {name: [] for name in READERS}
    for length in lengths:
        asked = ask(1, TEXTS, length, torch.Generator().manual_seed(4))
        times: ByReader = {name: [] for name in READERS}
        for _ in range(rounds + 1):
            for name, model in models.items():
                started = time.perf_counter()
                asked.loss(model).backward()
                times[name].append(time.perf_counter() - started)
        for name in READERS:
            found[name].append(median(times[name][1:]))               # the first wakes threads and caches
    return found


def _charts(right: Mapping[int, ByReader], back: Mapping[str, ByReader], lengths: Sequence[int],
            seconds: ByReader) -> tuple[Chart, ...]:
    def drawn(title: Words, name: Words, points: Sequence[str], unit: Words, rows: ByReader, logarithmic: bool) -> Chart:
        return Chart(title, name, tuple(points), unit, {(who, who): row for who, row in rows.items()}, logarithmic=logarithmic)

    far = "tokens back", "往前多少个词元"
    stretches = [f"{a}–{b - 1}" for a, b in zip(EDGES, EDGES[1:], strict=False)]
    when = {"fresh": ("before training", "训练之前"), "trained": ("after learning to copy", "学过复制之后")}
    return (*(drawn(_task(keys), far, stretches, ("share of right answers", "答对的比例"), rows, False)
              for keys, rows in right.items()),
            *(drawn((f"Gradient that reaches back, {when[which][0]}", f"{when[which][1]}，传回去的梯度"), far,
                    [str(n) for n in DISTANCES], ("share of that at the question", "与提问处梯度之比"), rows, True)
              for which, rows in back.items()),
            drawn(("Time of a pass there and back", "前向加反向一遍的时间"), ("tokens", "词元数"),
                  [f"{n:,}" for n in lengths], ("seconds", "秒"), seconds, True))


def _task(keys: int) -> Words:
    if keys == 1:
        return "Copying a token", "复制一个词元"
    return f"Recalling one of {keys} by its key", f"按键回忆 {keys} 者之一"


def _conclusion(numbers: Mapping[str, float], tasks: Sequence[int], lengths: Sequence[int], seconds: ByReader) -> Words:
    """What was answered from the farthest stretch, what gradient comes from there, and how the time grows."""
    first, last = EDGES[-2], EDGES[-1] - 1
    far = {keys: {name: numbers[f"right, {name}, keys {keys}, from {first} back"] for name in READERS} for keys in tasks}
    arrives = {name: numbers[f"gradient, {name}, fresh, {DISTANCES[-1]} back"] for name in READERS}
    english, chinese = [], []
    for keys, shares in far.items():
        said, task = _each({name: 100 * share for name, share in shares.items()}, ".0f"), _task(keys)
        english.append(f"{task[0]}, told {first} to {last} tokens before, percent right: {said[0]}.")
        chinese.append(f"{task[1]}，相隔 {first} 到 {last} 个词元，答对的百分比：{said[1]}。")
    english.append(f"Chance is {100 / VALUES:.0f}; the CNN's layers reach {REACH} tokens back and no further.")
    chinese.append(f"瞎猜为 {100 / VALUES:.0f}；CNN 的各层只够得着 {REACH} 个词元。")
    said = _each(arrives, ".2g")
    english.append(f"Of the gradient at the question this share gets {DISTANCES[-1]} tokens back before training: {said[0]}.")
    chinese.append(f"训练之前，提问处的梯度能传回 {DISTANCES[-1]} 个词元的份额：{said[1]}。")
    for one, other in (_memory(far, arrives), _time(lengths, seconds)):
        english.append(one)
        chinese.append(other)
    return " ".join(part for part in english if part), "".join(chinese)


def _each(values: Mapping[str, float], form: str) -> Words:
    said = [f"{name} {value:{form}}" for name, value in values.items()]
    return ", ".join(said), "、".join(said)


def _memory(far: Mapping[int, Mapping[str, float]], arrives: Mapping[str, float]) -> Words:
    """Who remembers from afar in every task, and whether what gradient came from there foretold it."""
    sure = [name for name in READERS if all(shares[name] >= SURE for shares in far.values())]
    if sure == ["Transformer"]:
        english, chinese = "Only the Transformer remembers from there in every task.", "只有 Transformer 在每项任务中都记得住。"
    elif sure:
        english = f"In every task {' and '.join(sure)} remember from there."
        chinese = f"每项任务中都记得住的有 {'、'.join(sure)}。"
    else:
        english, chinese = "None remembers from there in every task.", "没有谁在每项任务中都记得住。"
    learnt = [name for name in ("RNN", "LSTM") if any(shares[name] >= SURE for shares in far.values())
              and arrives[name] < arrives["Transformer"] / 1000]
    if learnt:
        which = " and ".join(learnt)
        english += f" Yet {which} learnt one of them with next to no gradient from there: a long path alone is no bar."
        chinese += f"不过 {'、'.join(learnt)} 虽然几乎得不到远处的梯度，也学会了其中一项：路径长本身并不等于记不住。"
    return english, chinese


def _time(lengths: Sequence[int], seconds: ByReader) -> Words:
    """How much longer a longer text takes, and who is the quickest there."""
    said = _each({name: row[-1] / row[0] for name, row in seconds.items()}, ".1f")
    quickest = min(READERS, key=lambda name: seconds[name][-1])
    longest, ratio = f"{lengths[-1]:,}", f"{lengths[-1] / lengths[0]:g}"
    recurrent = min(("RNN", "LSTM"), key=lambda name: seconds[name][-1])
    faster = f"{seconds[recurrent][-1] / seconds['Transformer'][-1]:.1f}"
    square = f"{(lengths[-1] / lengths[0])**2:g}"
    return (f"On this machine a text {ratio} times as long takes longer by a factor of: {said[0]}; n² would be {square}. At "
            f"{longest} tokens the {quickest} is the quickest, and the Transformer {faster} times as fast as the {recurrent}.",
            f"在这台机器上，文本长到 {ratio} 倍，用时是原来的：{said[1]} 倍；按 n² 应为 {square} 倍。"
            f"{longest} 个词元时最快的是 {quickest}，Transformer 的速度是 {recurrent} 的 {faster} 倍。")


LAB = Lab(("RNN, LSTM, CNN and Transformer", "RNN、LSTM、CNN 与 Transformer"),
          ("Over n tokens a signal takes n steps in an RNN, n/k in a CNN, one in a Transformer, which alone remembers from "
           "afar; it reads all tokens at once, in a time of n².",
           "信号传过 n 个词元，RNN 要走 n 步，CNN 要 n/k 步，Transformer 只要一步，所以只有它记得住远处；"
           "它同时读所有词元，用时为 n²。"),
          "Vaswani et al. 2017, table 1; Hochreiter 1991 and Bengio et al. 1994, vanishing gradients; Arora et al. 2023, "
          "Zoology", run)
