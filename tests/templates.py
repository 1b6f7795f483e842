"""The lines that the source makes, as templates, read off it: constants stay, and what is filled in is a numbered field."""

from __future__ import annotations

import ast
from itertools import chain, product

Part = str | ast.FormattedValue


def templates(made: ast.expr) -> list[str]:
    """The templates of a line that an expression makes, one for each way it may come out; none if it is made elsewhere.

    Alternatives that are written out are expanded. The same expression twice is the same field twice.
    """
    return [_numbered(parts) for parts in _ways(made)] if _is_text(made) else []


def _is_text(made: ast.expr) -> bool:
    match made:
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, op=ast.Add(), right=other):
            return _is_text(one) or _is_text(other)
        case ast.JoinedStr() | ast.Constant(value=str()):
            return True
    return False


def _ways(made: ast.expr) -> list[list[Part]]:
    """Each way the text may come out, in parts."""
    match made:
        case ast.Constant(value=str(text)):
            return [[text]]
        case ast.JoinedStr(values=values):
            return [list(chain(*parts)) for parts in product(*map(_ways, values))]
        case ast.BinOp(left=one, op=ast.Add(), right=other):
            return [[*first, *then] for first, then in product(_ways(one), _ways(other))]
        case ast.IfExp(body=one, orelse=other):
            return [*_ways(one), *_ways(other)]
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mult()):
            return [[text], [""]]
        case ast.FormattedValue(value=ast.IfExp() | ast.BinOp() as value) if _is_text(value) or _is_repeated(value):
            return _ways(value)
        case ast.FormattedValue():
            return [[made]]
    return [[ast.FormattedValue(value=made, conversion=-1)]]


def _is_repeated(value: ast.expr) -> bool:
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult) and _is_text(value.left)


def _numbered(parts: list[Part]) -> str:
    numbers: dict[str, int] = {}
    said = ""
    for part in parts:
        if isinstance(part, str):
            said += part
            continue
        quoted = "!r" if part.conversion == ord("r") else ""
        spec = "" if part.format_spec is None else ast.unparse(part.format_spec)
        number = numbers.setdefault(ast.unparse(part.value) + quoted + spec, len(numbers))
        said += f"{{{number}{quoted}}}"
    return said
