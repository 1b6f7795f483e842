"""What attention costs as a text grows: time and memory of the whole map at once, of tiles, and of the compiled kernel."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import linear_regression, median

import torch

from klieg.bench import Case, extra_memory
from klieg.kernels import native
from klieg.labs import Finding, Lab, repeatable
from klieg.views.chart import Chart, Words

LENGTHS, WEIGHED = (512, 1024, 2048, 4096, 8192), (2048, 4096, 8192)
WIDTH, ROUNDS, CHECKED = 64, 5, 512
KERNELS: dict[str, Words] = {"dense": ("whole map (dense)", "整张图（dense）"),
                             "streamed": ("tiles (streamed)", "分块（streamed）"),
                             "native": ("compiled (native)", "编译内核（native）")}
NEAR = 0.3           # how far from 2 an exponent may be and still be called quadratic
MEGABYTE = 1e6


def run(lengths: Sequence[int] = LENGTHS, rounds: int = ROUNDS, weighed: Sequence[int] = WEIGHED) -> Finding:
    """One head, every token to every other, timed at `lengths`; at those `weighed` its memory, where the system tells it."""
    kernels = [name for name in KERNELS if name != "native" or native.refusal(*_case("dense", 1).inputs()) is None]
    with repeatable(seed=0):                                                # one thread: sharing the work blurs how it grows
        seconds = _seconds(kernels, lengths, rounds)
    measured = {f"seconds, {kernel}, n {n}": x for kernel in kernels for n, x in zip(lengths, seconds[kernel], strict=True)}
    measured |= {f"exponent of time, {kernel}": _exponent(lengths, seconds[kernel]) for kernel in kernels}
    charts = [_chart(("Time of a call", "一次调用的时间"), lengths, ("seconds", "秒"), seconds)]
    if weighed and Path("/proc/self/clear_refs").exists():
        held = {kernel: [extra_memory(_case(kernel, n)) / MEGABYTE for n in weighed] for kernel in kernels}
        measured |= {f"megabytes, {kernel}, n {n}": x for kernel in kernels for n, x in zip(weighed, held[kernel], strict=True)}
        charts.append(_chart(("Memory at the peak, beyond q, k, v and the output", "峰值内存，不计 q、k、v 和输出"), weighed,
                             ("MB", "MB"), held))
    numbers = {f"largest difference from the formula, {kernel}": _difference(kernel) for kernel in kernels}
    return Finding(tuple(charts), _conclusion(lengths, numbers, measured), numbers, measured)


def _case(kernel: str, length: int) -> Case:
    return Case(1, 1, WIDTH, length, None, kernel=kernel, causal=False)


@torch.no_grad()
def _seconds(kernels: Sequence[str], lengths: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Seconds a call at each length: the median of rounds in which all kernels take turns, the first one thrown away."""
    found: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    for length in lengths:
        q, k, v = _case("dense", length).inputs()
        calls = max(1, (lengths[-1] // length) ** 2 // 16)             # a call of a short text is too short for a clock
        times: dict[str, list[float]] = {kernel: [] for kernel in kernels}
        for _ in range(rounds + 1):
            for kernel in kernels:
                case, started = _case(kernel, length), time.perf_counter()
                for _ in range(calls):
                    case.run(q, k, v)
                times[kernel].append((time.perf_counter() - started) / calls)
        for kernel in kernels:
            found[kernel].append(median(times[kernel][1:]))
    return found


def _exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """The power of n that the values grow with: the slope of the line through their logarithms."""
    return linear_regression([math.log(n) for n in lengths], [math.log(x) for x in values]).slope


@torch.no_grad()
def _difference(kernel: str) -> float:
    """The output's largest difference from the formula in float64."""
    case = _case(kernel, CHECKED)
    q, k, v = case.inputs()
    exact = replace(case, kernel="dense").run(q.double(), k.double(), v.double()).output
    return (case.run(q, k, v).output.double() - exact).abs().max().item()


def _chart(title: Words, lengths: Sequence[int], unit: Words, values: Mapping[str, Sequence[float]]) -> Chart:
    return Chart(title, ("tokens, n", "词元数 n"), tuple(f"{n:,}" for n in lengths), unit,
                 {KERNELS[kernel]: each for kernel, each in values.items()}, logarithmic=True)


def _conclusion(lengths: Sequence[int], numbers: Mapping[str, float], measured: Mapping[str, float]) -> Words:
    """How the time grows, what memory is held, and that all of them give the same."""
    kernels = [name for name in KERNELS if f"exponent of time, {name}" in measured]
    powers = {name: measured[f"exponent of time, {name}"] for name in kernels}
    last, longest = lengths[-1], f"{lengths[-1]:,}"
    grows = _each({name: f"{power:.2f}" for name, power in powers.items()})
    takes = _each({name: f"{measured[f'seconds, {name}, n {last}']:.3f}" for name in kernels})
    verdict = _quadratic(powers)
    english = [f"From {lengths[0]} to {longest} tokens the time on one thread grows with n to the power of: {grows[0]}. "
               + verdict[0],
               f"At {longest} tokens they take, in seconds: {takes[0]}."]
    chinese = [f"从 {lengths[0]} 到 {longest} 个词元，单线程用时按 n 的幂增长，指数为：{grows[1]}。" + verdict[1],
               f"{longest} 个词元时用时（秒）：{takes[1]}。"]
    for one, other in (_memory(kernels, last, measured), _missing(kernels)):
        english.append(one)
        chinese.append(other)
    error = f"{max(numbers.values()):.1e}"
    english.append(f"None is further than {error} from the formula in float64.")
    chinese.append(f"与 float64 公式的差都不超过 {error}。")
    return " ".join(part for part in english if part), "".join(chinese)


def _quadratic(powers: Mapping[str, float]) -> Words:
    """Whose time is near n², and whose is more or less."""
    more, less = ([name for name, power in powers.items() if sign * (power - 2) > NEAR] for sign in (1, -1))
    if not more and not less:
        return "All are near n².", "都接近 n²。"
    english = [f"{' and '.join(names)}: {how} than n²." for names, how in ((more, "more"), (less, "less")) if names]
    chinese = [f"{'、'.join(names)} {how}于 n²。" for names, how in ((more, "高"), (less, "低")) if names]
    near = [name for name in powers if name not in more + less]
    return (" ".join([*english, f"{' and '.join(near)}: near n²." if near else ""]).strip(),
            "".join([*chinese, f"{'、'.join(near)} 接近 n²。" if near else ""]))


def _each(values: Mapping[str, str]) -> Words:
    said = [f"{name} {value}" for name, value in values.items()]
    return ", ".join(said), "、".join(said)


def _memory(kernels: Sequence[str], last: int, measured: Mapping[str, float]) -> Words:
    """Who holds at least the N x N numbers of the map."""
    if f"megabytes, {kernels[0]}, n {last}" not in measured:
        return "The memory was not measured.", "没有测量内存。"
    held = {name: measured[f"megabytes, {name}, n {last}"] for name in kernels}
    whole = 4 * last**2 / MEGABYTE
    said, storing = _each({name: f"{x:.1f}" for name, x in held.items()}), [name for name, x in held.items() if x >= whole]
    who = f"only {' and '.join(storing)} stores it" if storing else "none stores it"
    kept = f"只有 {'、'.join(storing)} 把它存了下来" if storing else "谁也没有把它存下来"
    return (f"The map itself is {whole:.0f} MB there; beyond inputs and output the peak is, in MB: {said[0]}; {who}.",
            f"此时注意力图本身为 {whole:.0f} MB；不计输入输出，峰值内存（MB）：{said[1]}；{kept}。")


def _missing(kernels: Sequence[str]) -> Words:
    if "native" in kernels:
        return "", ""
    return ("Klieg was installed without a C++ compiler here, so the compiled kernel is missing.",
            "此处安装 Klieg 时没有 C++ 编译器，所以缺编译内核。")


LAB = Lab(("What a longer text costs", "文本变长的代价"),
          ("Attention takes time and memory of n²; FlashAttention gives exactly the same without ever storing the n × n map.",
           "注意力的时间和内存都是 n²；FlashAttention 结果完全相同，却从不存下 n × n 的图。"),
          "Vaswani et al. 2017, table 1; Dao et al. 2022, FlashAttention", run)
