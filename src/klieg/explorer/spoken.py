"""In which language a refusal is said: that of the page which asks, or of the browser where no page asks.

What Klieg refuses has its line in both languages. What another library says of it may have it in English only; then a
Chinese sentence before it says what came to nothing and what helps.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from klieg.errors import KliegError

# By the first words of a route: what came to nothing, and what helps. The longest that fits is said.
TASKS = {
    "/api/traces": "这段文字没有读成；请换一段文字，或换一个模型",
    "/api/films": "没有接着写下去；请换一段文字、换一个模型，或改变采样设置",
    "/api/suppositions": "这些改变没有作成；请撤销最后一项，或换一项",
    "/api/suppositions/ranks": "没有排成名次；请换一段文字，或换一个模型",
    "/api/comparisons": "这两段文字没有比成；请换一个词元，或换一段文字",
    "/api/labs": "这个实验没有做成；请换一个实验",
    "/api/flows": "没有算出流向；请换一个词元、换一段文字，或换一个模型",
    "/api/coreferences": "没有问成代词指代什么；请另选代词和候选词，或换一个模型",
    "/api/riddles": "题集没有做成；请换一个题集，或换一个模型",
    "/api/grammar": "两句话没有比成；请换两句话，或换一个模型",
    "/api/sparsity": "没有算出这种模式会失去什么；请换一种模式，或换一段文字",
    "/api/atlases": "这份图谱没有取到；请换一个指标，或重新启动服务器",
    "/api/traces/": "这一部分没有取到；请选别的层、头或词元，或重新查看这段文字",
}
SAVING = "文件没有存成；请换一种格式，或只存地图的一部分"
OTHERWISE = "请求没有办成；请刷新本页再试"

# What pydantic finds wrong with one part of a request, by its names; `ctx` fills them in.
UNFIT = {"string_too_long": "最多 {max_length} 个字符", "too_long": "最多 {max_length} 项", "too_short": "至少 {min_length} 项",
         "missing": "缺少这一项", "greater_than_equal": "不能小于 {ge}", "less_than_equal": "不能大于 {le}",
         "greater_than": "必须大于 {gt}", "less_than": "必须小于 {lt}", "literal_error": "必须是 {expected} 之一"}


def language(headers: Mapping[str, str]) -> str:
    """"zh" where Chinese is asked for first, else "en"."""
    first = headers.get("accept-language", "").partition(",")[0].partition(";")[0].strip().lower()
    return "zh" if first == "zh" or first.startswith("zh-") else "en"


def line(error: KliegError, request: Request) -> str:
    """The line of a refusal for who asks."""
    if language(request.headers) == "en":
        return str(error)
    return error.zh or f"{task(request.scope['path'])}。原因（英文）：{error}"


def task(path: str) -> str:
    """What came to nothing on the route of a path and what helps, in Chinese."""
    if "/pictures/" in path:
        return SAVING
    return TASKS[max(fits, key=len)] if (fits := [known for known in TASKS if path.startswith(known)]) else OTHERWISE


def unfit(where: str, fault: Mapping, headers: Mapping[str, str]) -> str:
    """What is wrong with a part of a request: `fault` is one of pydantic's errors."""
    if language(headers) == "en":
        return f"the request does not fit: {where or 'its body'}: {fault['msg']}."
    known = UNFIT.get(fault["type"], "不合要求").format_map(fault.get("ctx") or {})
    return f"请求不合要求：{where or '正文'}：{known}。"
