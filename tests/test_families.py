"""Every family of models, watched: its weights against transformers' eager attention, its output against itself.

A model runs twice in every way it can be used, unwatched and watched. The outputs must be the same bits. The maps
must be those that the same model gives in eager mode, in one pass without a cache over all tokens, whatever cache,
chunks or beams the watched run went through; and the surveys must be those of these maps in float64. A family that
is refused must say why, and must still run as before.

What is found is docs/models.md, in English and Chinese. To write it anew:

    python tests/test_families.py
"""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from families import CANNOT, FAMILIES, REFUSED, Family
from test_encoders import pretrained
from test_survey import SUMS, from_the_map
from torch import Tensor, nn
from ways import MODES, Run, modes, once, uncached, value

import klieg
from klieg.attention import log_sum_exp, scores
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.trace import Call

SPEC = SurveySpec(top=4, map=4)
STATISTICS = [*SUMS, "map_max", "top_weights"]
PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("models.md", "models.zh.md")]


def mapped(attentions: Sequence[Tensor], family: Family) -> list[Tensor]:
    """The maps out of what a model returns for all layers, or for those with a map alone."""
    if family.layers is None or len(attentions) == len(family.layers):
        return list(attentions)
    return [attentions[layer] for layer in family.layers]


def reference(eager: nn.Module, family: Family, run: Run) -> dict[str, list[Tensor]]:
    """The maps of eager attention, (b, h, i, j) for every layer with a map, by kind."""
    if family.name == "swin":       # it returns the last map of each stage
        maps: list[Tensor] = []
        for module in eager.modules():
            if type(module).__name__ == "SwinAttention":
                module.register_forward_hook(lambda module, given, found: maps.append(found[1]))
        eager(**run.whole)
        return {"self": maps}
    found = eager(**run.whole, **uncached(eager), output_attentions=True)
    if family.translates:
        return {"encoder": found.encoder_attentions, "self": found.decoder_attentions, "cross": found.cross_attentions}
    return {"self": mapped(found.attentions, family)}


def blind(family: Family, run: Run, kind: str, eager: Tensor) -> Tensor:
    """(b, i): which queries see nothing: those of a decoder before its first real token."""
    mask, shape = run.whole.get("attention_mask"), (eager.shape[0], eager.shape[2])
    causal = kind == "self" and family.kind in ("decoder", "hybrid")
    return mask.cumsum(1) == 0 if causal and mask is not None else torch.zeros(shape, dtype=torch.bool)


def compare(call: Call, eager: Tensor, blind: Tensor) -> tuple[float, float]:
    """Worst difference of a call's weights, and of its survey, from the eager map (b, h, i, j).

    That of a statistic counts in units of its largest value, where that is above 1.
    """
    texts, heads, queries, keys = eager.shape
    assert (call.lse.shape, call.keys) == ((texts, heads, queries), keys)
    found = torch.stack([torch.stack([call.weights(head, text) for head in range(heads)]) for text in range(texts)])
    true = eager.double() * ~blind[:, None, :, None]      # eager looks evenly at everything where it sees nothing
    assert not (found * blind[:, None, :, None]).any()
    said, survey = from_the_map(true, call.lse, true, SPEC), call.survey
    off = [(getattr(survey, name) - said[name]).abs().max() / max(1, said[name].abs().max()) for name in STATISTICS]
    at = survey.top_keys.clamp(min=0)
    off.append((found.gather(3, at) * (survey.top_keys >= 0) - survey.top_weights).abs().max())
    return (found - true).abs().max().item(), max(off).item()


def share_of_sinks(eager: Tensor, call: Call, sinks: Tensor) -> Tensor:
    """What sinks leave of maps that eager attention returns before they took their share: by the formula, from q and k."""
    s = scores(call.q.double(), call.k.double(), scale=call.scale).masked_fill(eager == 0, -torch.inf)
    return eager * torch.exp(log_sum_exp(s) - log_sum_exp(s, sinks))[..., None]


@dataclass
class Finding:
    """What was found out about a family."""

    family: Family
    modes: list[str] = field(default_factory=list)
    """The ways in which all was as it must be."""
    weights: float = 0.0
    survey: float = 0.0
    without_map: dict[int, str] = field(default_factory=dict)
    refusal: str | None = None


def watched(model: nn.Module, eager: nn.Module, family: Family, mode: str, finding: Finding) -> None:
    """One way to use a model, unwatched and watched; what differs is an AssertionError."""
    before = MODES[mode](model, family)
    with klieg.watch(model, top=SPEC.top, map=SPEC.map, bins=SPEC.bins) as seen:
        run = MODES[mode](model, family)
    for a, b in zip(before.outputs, run.outputs, strict=True):
        assert torch.equal(a, b), f"{mode}: the watched output differs"
    expected = reference(eager, family, run)
    layers = family.layers or tuple(range(len(expected["self"])))
    finding.without_map = dict(seen.without_map)
    assert set(seen.without_map) == (set(range(model.config.num_hidden_layers)) - set(layers) if family.layers else set())
    kinds = {(layer, kind): eager for kind, maps in expected.items() for layer, eager in zip(layers, maps, strict=True)}
    assert {(call.layer, call.kind) for call in seen.calls} == set(kinds), mode
    for (layer, kind), eager in kinds.items():
        call = seen[layer, kind]
        if family.name == "granite_swa":
            eager = share_of_sinks(eager, call, model.model.layers[layer].self_attn.sinks)
        weights, survey = compare(call, eager, blind(family, run, kind, eager))
        assert weights < 2e-5 and survey < 2e-5, f"{mode}, layer {layer} {kind}: {weights:.1e}, {survey:.1e}"
        finding.weights, finding.survey = max(finding.weights, weights), max(finding.survey, survey)
    finding.modes.append(mode)


@functools.cache
@torch.no_grad()
def found(name: str) -> Finding:
    """Watch a family in every way."""
    family = FAMILIES[name]
    model, finding = family.model(), Finding(family)
    was, before = model.config._attn_implementation, once(model, family).outputs[0]
    try:
        with klieg.watch(model):
            once(model, family)
    except KliegError as refusal:
        finding.refusal = str(refusal)
    else:
        eager = copy.deepcopy(model)
        eager.set_attn_implementation("eager")
        for mode in modes(family):
            watched(model, eager, family, mode, finding)
    assert model.config._attn_implementation == was
    assert torch.equal(once(model, family).outputs[0], before), "a model must be left as it was"
    return finding


@pytest.mark.parametrize("name", FAMILIES)
def test_a_watched_family_is_exact_or_refused(name: str) -> None:
    finding = found(name)
    assert (finding.refusal is not None) == (name in REFUSED), finding.refusal
    if finding.refusal:
        assert type(finding.family.model()).__name__ in finding.refusal and "\n" not in finding.refusal
    else:
        assert finding.modes == modes(finding.family) and len(finding.modes) >= 1


@pytest.mark.parametrize("name, mode", [(name, mode) for name in CANNOT for mode in CANNOT[name]])
@torch.no_grad()
def test_what_is_left_out_cannot_be_done(name: str, mode: str) -> None:
    """transformers raises, pays no heed to the padding, or gives other numbers than in one pass."""
    family = FAMILIES[name]
    model = family.model()
    try:
        run = MODES[mode](model, family)
    except (AttributeError, RuntimeError, ValueError):
        return
    whole = value(model(**run.whole, **uncached(model)))
    departs = (torch.cat(run.outputs, 1) - whole)[1].abs().max() > 0.1      # text 1 has no padding
    assert departs or torch.equal(whole, once(model, family).outputs[0])


TEXTS = ["The animal didn't cross the street because it was too tired.", "I love you"]


@torch.no_grad()
def test_a_pretrained_encoder_is_exact() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = pretrained()
    model = AutoModel.from_pretrained(folder)
    given = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    before = model(**given).last_hidden_state
    with klieg.watch(model, top=SPEC.top, map=SPEC.map, bins=SPEC.bins) as seen:
        assert torch.equal(model(**given).last_hidden_state, before)
    maps = AutoModel.from_pretrained(folder, attn_implementation="eager")(**given, output_attentions=True).attentions
    assert len(maps) == len(seen.calls) == 6 and before.shape[1] == 16
    for layer, eager in enumerate(maps):
        weights, survey = compare(seen[layer], eager, torch.zeros(2, 16, dtype=torch.bool))
        assert eager.shape[1] == 12 and weights < 2e-5 and survey < 2e-5


COLUMNS = {
    "plain": ("one pass", "单次"), "left": ("padded left", "左填充"), "right": ("padded right", "右填充"),
    "cache": ("cache", "缓存"), "chunks": ("chunks", "分块"), "static": ("static cache", "静态缓存"),
    "generate": ("generate", "生成"), "beams": ("beams", "束搜索"),
}
SECTIONS = {
    "decoder": ("Decoders", "解码器"), "hybrid": ("Decoders with layers of other kinds", "混合层的解码器"),
    "encoder": ("Encoders", "编码器"), "translator": ("Encoder-decoders", "编码器-解码器"),
    "viewer": ("Pictures, a patch a token", "图像：一个图块一个词元"), "listener": ("Sound", "声音"),
}
FAMILY, ATTENTION, WEIGHTS, SURVEY = ("family", "模型族"), ("attention", "注意力"), ("weights", "权重"), ("survey", "统计")
WITHOUT, WHY, REFUSALS = ("no map", "没有注意力图"), ("why", "原因"), ("Refused", "拒绝")
INTRODUCTION = ("""# Families of models

What `klieg.watch()` does with {families} families of transformers {version}: {exact} are watched, {refused} are refused
with the reason. Each is a tiny random model of transformers' own code, two texts or pictures at once. It runs twice in
every way below, unwatched and watched; with a cache, and when it writes, one of the texts is padded. ✓ says:

- the watched output is the unwatched one, bit for bit;
- every weight of every layer and head is that of transformers' eager attention in one pass without a cache, to less
  than the number under *weights*; in an encoder with a decoder also those of cross-attention;
- entropy, received, distances, the largest weights, the small map and all else in the survey are those of that map
  in float64, to less than the number under *survey*, in units of the largest value.

The differences are those of float32, in which two kernels round differently through the whole model. – says that
transformers itself cannot do it; why stands under the table. A layer without attention has no map, and is named.
This page is written by `python tests/test_families.py`, and the same file fails when it is out of date.
""", """# 模型族

`klieg.watch()` 在 transformers {version} 的 {families} 个模型族上的结果：{exact} 个可以观察，{refused} 个被拒绝并说明原因。
每个都是用 transformers 自己的代码建立的小型随机模型，一次输入两段文字或两张图像。每种用法各运行两次：不观察和观察；
用缓存和生成时，其中一段文字带填充。✓ 表示：

- 观察时的输出与不观察时逐位相同；
- 每层每头的每个权重都等于 transformers 的 eager 注意力不用缓存、单次计算的权重，误差小于“权重”一列的数；
  编码器-解码器模型还包括交叉注意力；
- 统计中的熵、所得权重、距离、最大权重、缩小的图等，都等于由该注意力图以 float64 算出的值，
  以最大值为单位，误差小于“统计”一列的数。

这些误差来自 float32：两种内核的舍入不同，并逐层累积。– 表示 transformers 自身做不到，原因写在表下。
没有注意力的层没有注意力图，逐一列出。
本页由 `python tests/test_families.py` 写成；内容过时则同一文件的测试失败。
""")


def bound(worst: float) -> str:
    """The power of ten above a difference, with room for the rounding of another machine."""
    return f"< 1e{max(-6, math.ceil(math.log10(max(1.5 * worst, 1e-9))))}"


def lines(head: list[tuple[str, str]], rows: list[list[str]], language: int) -> list[str]:
    """A table in Markdown."""
    return ["| " + " | ".join(row) + " |" for row in [[both[language] for both in head], ["---"] * len(head), *rows]]


def page(language: int) -> str:
    """docs/models.md in English (0) or Chinese (1)."""
    import transformers

    findings = [found(name) for name in FAMILIES]
    refused = [finding for finding in findings if finding.refusal]
    text = [INTRODUCTION[language].format(version=transformers.__version__, families=len(findings), refused=len(refused),
                                          exact=len(findings) - len(refused))]
    for kind, heading in SECTIONS.items():
        exact = [finding for finding in findings if finding.family.kind == kind and not finding.refusal]
        ways = [mode for mode in COLUMNS if any(mode in finding.modes for finding in exact)]
        gaps = [WITHOUT] * any(finding.without_map for finding in exact)
        rows = [[f"`{finding.family.name}`", finding.family.features,
                 *("✓" if mode in finding.modes else "–" if mode in finding.family.cannot else "" for mode in ways),
                 *["; ".join(f"{layer}: {why}" for layer, why in finding.without_map.items())] * len(gaps),
                 bound(finding.weights), bound(finding.survey)] for finding in exact]
        head = [FAMILY, ATTENTION, *(COLUMNS[mode] for mode in ways), *gaps, WEIGHTS, SURVEY]
        text += [f"## {heading[language]}", "", *lines(head, rows, language), ""]
        notes = [f"- `{finding.family.name}`, {', '.join(COLUMNS[mode][language] for mode in group)}: {why}."
                 for finding in exact for why, group in grouped(finding.family.cannot).items()]
        text += [*notes, ""] if notes else []
    rows = [[f"`{finding.family.name}`", finding.family.features, finding.refusal or ""] for finding in refused]
    return "\n".join([*text, f"## {REFUSALS[language]}", "", *lines([FAMILY, ATTENTION, WHY], rows, language)]) + "\n"


def grouped(reasons: dict[str, str]) -> dict[str, list[str]]:
    """{key: reason} as {reason: [keys]}."""
    return {why: [key for key, other in reasons.items() if other == why] for why in dict.fromkeys(reasons.values())}


@pytest.mark.parametrize("path, language", [(PAGES[0], 0), (PAGES[1], 1)], ids=["en", "zh"])
def test_the_page_is_what_was_found(path: Path, language: int) -> None:
    import transformers

    there = path.read_text("utf-8")
    if f"transformers {transformers.__version__}" not in there:
        pytest.skip(f"{path.name} was written with another transformers than {transformers.__version__}")
    number = re.compile(r"< (1e-\d+)")
    now = page(language)
    assert number.sub("<", now) == number.sub("<", there), f"{path} is out of date: run python tests/test_families.py"
    for true, said in zip(number.findall(now), number.findall(there), strict=True):
        assert int(said.partition("-")[2]) - int(true.partition("-")[2]) <= 1   # powers of ten: 10 * 1e-6 is not quite 1e-5


if __name__ == "__main__":
    for path, language in zip(PAGES, (0, 1), strict=True):
        path.write_text(page(language), "utf-8")
