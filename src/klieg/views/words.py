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
    "group short": ("K/V {group}", "键值 {group}"),
    "layer and head": ("Layer {layer} · head {head}", "第 {layer} 层 · 头 {head}"),
    "model": ("{layers} layers × {heads} heads · {groups} K/V groups · d {d} · kernel {kernel} · {tokens} tokens",
              "{layers} 层 × {heads} 头 · {groups} 个键值组 · d {d} · 内核 {kernel} · {tokens} 个词元"),
    "looks": ("where {token} looks, one column a token: ", "{token} 看向哪里，每列一个词元："),
    "looks pooled": ("where {token} looks, one column for {pool} tokens: the largest (max-pooled)",
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
    "unmasked": ("nothing is masked: every token is seen", "没有遮盖：每个词元都可见"),
    "future": ("future positions are masked: −∞", "未来的位置被遮盖：−∞"),
    "left out": ("left out: tokens {tokens}; of {token}'s weight, {share} is there",
                 "未画出：词元 {tokens}；{token} 有 {share} 的权重落在那里"),
    "left out of": ("left out: tokens {tokens}", "未画出：词元 {tokens}"),
    "left out queries": ("left out: rows {tokens}", "未画出：第 {tokens} 行"),
    "and": (" and ", "、"),
    "probability": ("probability of the token after {token}", "{token} 之后下一词元的概率"),
    "writes after": ("what the decoder writes after {prefix}", "解码器在 {prefix} 之后写什么"),
    "writes": ("Writes", "写出"),
    "source": ("Source", "原文"),
    "target": ("Target", "译文"),
    "written": ("probability of each token, given the source and the tokens before it",
                "已知原文与前面的词元时，每个词元的概率"),
    "likelier": ("likelier: {token} {share}", "更可能：{token} {share}"),
    "of steps": ("{shown} of {all} tokens", "{all} 个词元中的 {shown} 个"),
    "translator": ("{encoder} + {decoder} layers × {heads} heads · d {d} · kernel {kernel} · {source} → {target} tokens",
                   "{encoder} + {decoder} 层 × {heads} 头 · d {d} · 内核 {kernel} · {source} → {target} 个词元"),
    "other kinds": ("the others: {command}", "其余的：{command}"),
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
    "widths": ("dim", "维"),
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
    "encoder": ("encoder", "编码器"),
    "self": ("decoder", "解码器"),
    "cross": ("cross-attention", "交叉注意力"),
    "region": ("layer {layer}, head {head}, queries {rows}, keys {keys}",
               "第 {layer} 层，头 {head}，查询 {rows}，键 {keys}"),
    "each weight": ("each cell one weight", "每格一个权重"),
    "each max": ("each cell the largest weight of up to {queries} queries × {keys} keys (max-pooled)",
                 "每格为至多 {queries} 个查询 × {keys} 个键中最大的权重（最大池化）"),
    "each mean": ("each cell the mean weight of up to {queries} queries × {keys} keys",
                  "每格为至多 {queries} 个查询 × {keys} 个键的平均权重"),
    "queries": ("queries ↓", "查询 ↓"),
    "keys": ("keys →", "键 →"),
    "strongest": ("strongest links, the first and the query's own token aside", "最强的链接（首词与自身除外）"),
    "farthest": ("the head that looks farthest, the first token aside:", "看得最远的头（首词除外）："),
    "every head": ("every head: {command}", "每个头：{command}"),
    "a region": ("a region of one head: {command}", "一个头的局部：{command}"),
    "blank": ("blank: every weight is 0, as where the mask hides them", "空白：权重全为 0，例如被遮盖之处"),
    "by entropy": ("Entropy: how spread a head looks", "熵：一个头看得多分散"),
    "by sharpest": ("Largest weight of a row", "每行最大的权重"),
    "by distance": ("Distance: how far away a head looks", "距离：一个头看得多远"),
    "by first": ("Weight on the first token", "落在首词上的权重"),
    "by own": ("Weight on the query's own token", "落在自身上的权重"),
    "by beside": ("Weight on the tokens directly beside", "落在紧邻词元上的权重"),
    "by received": ("Share of all weight that the most attended key gets", "最受关注的键所得的份额"),
    "column entropy": ("entropy", "熵"),
    "column sharpest": ("sharpest", "最大权重"),
    "column distance": ("distance", "距离"),
    "column first": ("first", "首词"),
    "column own": ("own", "自身"),
    "column beside": ("beside", "紧邻"),
    "column received": ("received", "最受关注"),
    "in share": ("share", "份额"),
    "in nats": ("nats", "奈特"),
    "in mnats": ("thousandths of a nat a token", "每词元千分之一奈特"),
    "in tokens": ("tokens", "词元"),
    "film": ("Film", "影片"),
    "film help": ("each token with the probability that the model gave it; pale what else it might have said, the likeliest "
                  "first",
                  "每个词元与模型给它的概率；浅色是还可能说的词，最可能的在前"),
    "film looks": ("where it looked, the row of the token before it: {place}", "它看向哪里（前一个词元的那一行）：{place}"),
    "film keys": ("one column a token: 0 to {last}", "每列一个词元：0 到 {last}"),
    "film pooled": ("one column for {pool} tokens, 0 to {last}: their largest weight (max-pooled)",
                    "每列 {pool} 个词元，0 到 {last}，取其中最大的权重（最大池化）"),
    "film rank": ("no. {rank}", "第 {rank} 位"),
    "flow title": ("what reaches {token}", "什么流到了 {token}"),
    "flow": ("what reaches {token} through all layers", "经过所有层之后，什么流到了 {token}"),
    "flow beside": ("beside it what hiding a token from all others does to the prediction",
                    "旁边是把一个词元对其余全部遮去后，预测的改变"),
    "flow hiding": ("hiding", "遮去"),
    "flow bits": ("bits", "比特"),
    "flow raw": ("raw", "原始"),
    "flow rollout": ("rollout", "rollout"),
    "flow max-flow": ("max-flow", "最大流"),
    "flow value": ("value", "按值"),
    "flow corrected": ("corrected", "已校正"),
    "flow agreement": ("rank correlation", "秩相关"),
    "flow without first": ("without what rests on the first token", "不计落在首词上的份额"),
    "flow left out": ("the {shown} of {all} tokens whose hiding does most", "{all} 个词元中，遮去后影响最大的 {shown} 个"),
    "labs": ("Labs: what is said of attention, and what is measured", "实验：关于注意力的说法与实测"),
    "lab claim": ("It is said: {claim}", "说法：{claim}"),
    "compare": ("Compare", "比较"),
    "alike": ("cosine of the vectors of {a} in A and {b} in B, layer by layer", "A 中的 {a} 与 B 中的 {b} 的向量之余弦，逐层"),
    "alike mean": ("   dashed: all pairs of tokens, mean", "   虚线：所有词元对的平均"),
    "alike embedded": ("embedding", "词嵌入"),
    "alike start": ("entry", "入口"),
    "alike layer": ("layer {layer}", "第 {layer} 层"),
    "alike pair": ("these two", "这两个"),
    "alike pairs": ("all, mean", "平均"),
    "not alike": ("two models have no vector space in common, so there is no similarity",
                  "两个模型没有共同的向量空间，所以没有相似度"),
    "no vectors": ("the vectors of these texts were not kept, so there is no similarity",
                   "这两段文字的向量没有保留，所以没有相似度"),
    "what if": ("What if", "假如"),
    "change before": ("before", "之前"),
    "change after": ("after", "之后"),
    "change rank": ("rank", "名次"),
    "divergence": ("divergence {bits} bits: KL(before ‖ after)", "散度 {bits} 比特：KL(之前 ‖ 之后)"),
    "muting": ("What muting each head does", "逐个静音每个头的影响"),
    "in bits": ("divergence, bits", "散度，比特"),
    "likeliest lost": ("change of log₂ p of the likeliest", "最可能词元 log₂ p 的变化"),
    "sparse pattern": ("pattern", "模式"),
    "sparse share": ("kept", "保留"),
    "sparse mean": ("lost", "失去"),
    "sparse worst": ("worst head", "最差的头"),
    "sparse last": ("bits", "比特"),
    "sparse bits": ("mean", "平均"),
    "sparse next": ("next", "下一词"),
    "sparse dense": ("dense", "稠密"),
    "sparse grid": ("weight that each head loses under {pattern}", "{pattern} 下每个头失去的权重"),
    "sparse meaning": ("Kept: the share of all pairs of a query and a key. Lost: the part of a row's weights, which sum to 1, "
                       "that falls on pairs given up, averaged over rows and heads.",
                       "保留：保留下来的词对占多少。失去：一行权重之和是一，其中落在被舍弃词对上的部分，"
                       "对各行各头取平均。"),
    "sparse bits meaning": ("Bits: KL(dense ‖ sparse) of the next token's probabilities when every head really sees only the "
                            "pairs kept; after the last token, and the mean over all tokens.",
                            "比特：每个头真的只看保留的词对时，下一词元概率的 KL(稠密 ‖ 稀疏)，先是末词之后，"
                            "再是对所有词元取平均。"),
    "sparse saved": ("A saved trace has no model to run again: no bits.",
                     "保存的记录里没有可以重新运行的模型，所以没有比特数。"),
    "cost asked": ("computed", "计算内容"),
    "cost heads asked": ("heads × width", "头 × 宽"),
    "cost length asked": ("tokens", "词元"),
    "cost time over": ("over torch", "与 torch 之比"),
    "cost seconds": ("seconds, ours / torch", "秒，本程序 / torch"),
    "cost made by": ("kernel", "内核"),
    "cost output": ("output", "输出"),
    "cost survey": ("output and survey", "输出与统计"),
    "cost top": (", top-{top}", "，前 {top} 大"),
    "cost plain": ("fused + streamed (without a compiler)", "fused + streamed（没有编译器时）"),
    "cost measuring": ("measuring, {done} of {count}", "测量中，{done}/{count}"),
    "cost meaning": ("Time over torch's scaled_dot_product_attention alone, which keeps nothing; causal, {type}, median of "
                     "ratios taken in turns.",
                     "与 torch 的 scaled_dot_product_attention 单独运行（什么都不保留）的时间之比；"
                     "因果遮盖，{type}，交替运行，取比值的中位数。"),
    "curve": ("loss against training steps", "损失随训练步数的变化"),
    "curve loss": ("loss, nats a token", "损失，奈特/词元"),
    "curve training": ("training", "训练"),
    "curve validation": ("validation", "留出文本"),
    "curve point": ("{name}: step {step}, {loss}", "{name}：第 {step} 步，{loss}"),
    "model name": ("name", "名字"),
    "model shape": ("shape", "结构"),
    "model layers": ("layers", "层"),
    "model heads": ("heads", "头"),
    "model kv heads": ("K/V heads", "键值头"),
    "model positions": ("positions", "位置数"),
    "model parameters": ("parameters", "参数量"),
    "model folder": ("folder", "文件夹"),
    "fill mask": ("mask", "空"),
    "fill candidate": ("candidate", "候选"),
    "fill probability": ("probability", "概率"),
    "perplexity": ("perplexity", "困惑度"),
    "perplexity a word": ("{token} a token ({tokens} tokens of the model), {word} a word ({words} words); ends of sentences "
                          "counted in both",
                          "按词元 {token}（模型的词元 {tokens} 个），按词 {word}（{words} 个）；两者都计入句末"),
    "perplexity a character": ("{token} a token ({tokens} tokens of the model), {word} a character ({words} characters); ends "
                               "of sentences counted in both",
                               "按词元 {token}（模型的词元 {tokens} 个），按字符 {word}（{words} 个）；两者都计入句末"),
    "sentences": ("sentences", "句数"),
    "translated": ("{sentences} in {seconds} s, {speed} a second", "{sentences}，用时 {seconds} 秒，每秒 {speed} 句"),
    "error rate": ("AER {aer} %, precision {precision} %, recall {recall} % of {sure} sure links; the gold counts words from "
                   "{first}",
                   "AER {aer} %，精确率 {precision} %，召回率 {recall} %，确定的对应 {sure} 个；标准答案的词从 {first} 数起"),
}
REASONS = {"future": "未来的位置", "outside the window": "在窗口之外", "another block": "在另一块",
           "off the stride": "不在步长上", "padding": "填充", "another document": "另一篇文档", "not allowed": "不被允许"}


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
