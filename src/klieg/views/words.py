"""Every word of the views, in English and Chinese. A {name} is filled in, or painted as a span.

No sentence says why a head looks somewhere; they say where.
"""

from __future__ import annotations

import re

from klieg.errors import KliegError, nearest
from klieg.views.palette import Paint
from klieg.views.picture import FAINT, Span

LANGUAGES = ("en", "zh")

WORDS: dict[str, tuple[str, str]] = {
    "tokens": ("Tokens", "词元"),
    "heads": ("Heads", "注意力头"),
    "next": ("Next", "下一词"),
    "layer": ("layer {layer}", "第 {layer} 层"),
    "head": ("head {head}", "头 {head}"),
    "group": ("K/V group {group}", "键值组 {group}"),
    "layer and head": ("Layer {layer} · head {head}", "第 {layer} 层 · 头 {head}"),
    "model": ("{layers} layers × {heads} heads · {groups} K/V groups · d {d} · kernel {kernel} · {tokens} tokens",
              "{layers} 层 × {heads} 头 · {groups} 个键值组 · d {d} · 内核 {kernel} · {tokens} 个词元"),
    "looks": ("where {token} looks, one column a token: ", "{token} 看向哪里，每列一个词元："),
    "looks pooled": ("where {token} looks, one column for {pool} tokens: their largest weight (max-pooled)",
                     "{token} 看向哪里，每列 {pool} 个词元，取其中最大的权重（最大池化）"),
    "looks short": ("where {token} looks, one column a token", "{token} 看向哪里，每列一个词元"),
    "certain": ("most certain head: {share} on {token}", "最确定的头：{share} 落在 {token}"),
    "certain at": ("most certain head: layer {layer}, head {head}, {share} on {token}",
                   "最确定的头：第 {layer} 层头 {head}，{share} 落在 {token}"),
    "weights": ("weights", "权重"),
    "dot": ("scores", "分数"),
    "scaled": ("scaled", "缩放"),
    "masked": ("scaled and masked", "缩放与遮盖"),
    "step dot": ("Scores", "分数"),
    "step masked": ("Scale, mask", "缩放与遮盖"),
    "step weights": ("Softmax", "softmax"),
    "sum": ("sum", "行和"),
    "sink": ("first token, the sink: {share} of rows {rows}", "首词（汇）：占第 {rows} 行的 {share}"),
    "hidden": ("first token hidden, its share: {share} of rows {rows}", "首词已隐藏，占第 {rows} 行的 {share}"),
    "future": ("future positions are masked: −∞", "未来的位置被遮盖：−∞"),
    "left out": ("left out: tokens {tokens}; of {token}'s weight, {share} is there",
                 "未画出：词元 {tokens}；{token} 有 {share} 的权重落在那里"),
    "left out of": ("left out: tokens {tokens}", "未画出：词元 {tokens}"),
    "and": (" and ", "、"),
    "probability": ("probability of the token after {token}", "{token} 之后下一词元的概率"),
    "rank": ("rank {rank} of {size}", "第 {rank} 名，共 {size}"),
    "exact": ("exact", "精确"),
    "row sum": ("|row sum {minus} 1| ≤ {error}", "|行和 {minus} 1| ≤ {error}"),
    "output error": ("|A·V {minus} model output| ≤ {error}", "|A·V {minus} 模型输出| ≤ {error}"),
    "checked": ("all {heads} heads checked", "已核对全部 {heads} 个头"),
    "one weight": ("one weight's arithmetic: {command}", "一个权重的算式：{command}"),
    "browser": ("in the browser: {command}", "在浏览器中打开：{command}"),
    "lines of": ("each line a weight of {token}, its width the weight", "每条线是 {token} 的一个权重，线宽即权重"),
    "largest": (": the {count} largest of {all}", "：{all} 个中最大的 {count} 个"),
    "key": ("key", "键"),
    "output": ("output", "输出"),
    "cell": ("{query} looks at {key} with weight {weight}", "{query} 以权重 {weight} 看向 {key}"),
    "no cell": ("{query} may not look at {key}: {reason}", "{query} 不能看向 {key}：{reason}"),
    "place": ("layer {layer}, head {head}, query {query}, key {key}",
              "第 {layer} 层，头 {head}，查询 {query}，键 {key}"),
    "widths": ("width", "维"),
    "before": ("before rotation", "旋转前"),
    "after": ("after rotation", "旋转后"),
    "product sum": ("sum of the {d} products", "{d} 个乘积之和"),
    "scale": ("scale", "缩放"),
    "capped": ("softcap {cap}: cap · tanh(s / cap)", "软上限 {cap}：cap · tanh(s / cap)"),
    "bias": ("bias, added", "加上偏置"),
    "mask": ("mask", "遮盖"),
    "seen": ("+ 0   the key is seen", "+ 0   此键可见"),
    "not seen": ("−∞   the key is hidden: {reason}", "−∞   此键被遮盖：{reason}"),
    "row": ("the row", "整行"),
    "score": ("score s", "分数 s"),
    "exponential": ("exp(s {minus} max)", "exp(s {minus} max)"),
    "others": ("the other {count}, summed", "其余 {count} 个之和"),
    "learned sink": ("learned sink", "习得的汇"),
    "row max": ("row maximum", "行最大值"),
    "row total": ("row sum of exponentials", "指数的行和"),
    "weight": ("weight", "权重"),
    "times v": ("weight × v", "权重 × v"),
    "share": ("share of the output", "占输出的份额"),
    "model's own": ("the model's own: exp(s {minus} lse)", "模型自己的：exp(s {minus} lse)"),
    "difference": ("difference", "差"),
}
REASONS = {"future": "未来的位置", "outside the window": "在窗口之外", "padding": "填充",
           "another document": "另一篇文档", "not allowed": "不被允许"}


def say(key: str, language: str, /, **values: object) -> str:
    """One phrase of the interface with its names filled in."""
    return WORDS[key][_index(language)].format(**values)


def phrase(key: str, language: str, paint: Paint = FAINT, /, **values: Span | object) -> tuple[Span, ...]:
    """One phrase as spans: a name filled by a Span keeps its own paint, all else takes `paint`."""
    spans = []
    for piece in re.split(r"(\{[a-z]+\})", WORDS[key][_index(language)]):
        value = values[piece[1:-1]] if piece.startswith("{") else piece
        spans.append(value if isinstance(value, Span) else Span(str(value), paint))
    return tuple(span for span in spans if span.text)


def reason(reason: str, language: str) -> str:
    """A mask's reason in the language of the reader."""
    return REASONS.get(reason, reason) if _index(language) else reason


def _index(language: str) -> int:
    if language not in LANGUAGES:
        raise KliegError(f"there is no language {language!r}." + nearest(language, list(LANGUAGES)))
    return LANGUAGES.index(language)
