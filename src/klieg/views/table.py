"""The numbers of one head at one stage, with what the mask hides; sums and limits without a list of every pair."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from klieg.trace import Call

STAGES = ("dot", "scaled", "masked", "weights")


@dataclass(frozen=True, eq=False)
class Table:
    """numbers (i, j) and seen (i, j): a pair that is not seen has no number."""

    numbers: Tensor
    seen: Tensor

    @staticmethod
    def of(call: Call, head: int, stage: str) -> Table:
        """The stage of a head: "dot" and "scaled" come before the mask, so there every pair is seen."""
        numbers = getattr(call.stages(head), stage)
        seen = call.visible(head, slice(None), slice(None))
        return Table(numbers, seen if stage in ("masked", "weights") else seen.new_ones(seen.shape))

    @property
    def masks(self) -> bool:
        """Whether any pair is hidden."""
        return not bool(self.seen.all())

    def cut(self, rows: range, keys: range) -> list[list[float | None]]:
        """Some rows and columns; None where a pair is hidden."""
        part = slice(rows.start, rows.stop), slice(keys.start, keys.stop)
        numbers, seen = self.numbers[part].tolist(), self.seen[part].tolist()
        return [[n if s else None for n, s in zip(*row, strict=True)] for row in zip(numbers, seen, strict=True)]

    def limits(self, rows: range | None = None, keys: range | None = None) -> tuple[float, float]:
        """The least and the largest number that is seen, in some rows and columns or in all; 0 and 0 if there is none."""
        part = tuple(slice(None) if some is None else slice(some.start, some.stop) for some in (rows, keys))
        values = self.numbers[part][self.seen[part]]
        return (values.min().item(), values.max().item()) if len(values) else (0.0, 0.0)

    def values(self, after_first: bool = False) -> Tensor:
        """Every number that is seen, (n,); without those of the first key if asked."""
        start = int(after_first)
        return self.numbers[:, start:][self.seen[:, start:]]

    def sums(self) -> list[float]:
        """The sum of every row."""
        return self.numbers.masked_fill(~self.seen, 0).double().sum(-1).tolist()

    def first(self) -> list[float]:
        """The first key's number in every row after the first that sees it."""
        return self.numbers[1:, 0][self.seen[1:, 0]].tolist()

    def outside(self, row: int, keys: range) -> float:
        """The sum of a row over the keys that are not shown."""
        line = self.numbers[row].masked_fill(~self.seen[row], 0).double()
        return (line[:keys.start].sum() + line[keys.stop:].sum()).item()
