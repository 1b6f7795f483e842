"""What one rule of a mask lets a query see: by where both stand, or by a table.

Sources of the sparse ones: block, Qiu et al. 2020, "Blockwise Self-Attention", section 3.1, the identity permutation;
strided, Child et al. 2019, "Sparse Transformers", section 4.3, both of its parts in one head; global tokens beside any
of them, Beltagy et al. 2020, "Longformer", section 3.1, and Zaheer et al. 2020, "Big Bird", section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# What each rule lets a query at slot i (i, 1) see of a key at slot j (1, j). True = may attend.
_SEES = {
    "causal": lambda rule, i, j: j <= i,
    "window": lambda rule, i, j: (i - j).abs() < rule.size,
    "block": lambda rule, i, j: i // rule.size == j // rule.size,
    "strided": lambda rule, i, j: ((i - j).abs() < rule.size) | ((i - j) % rule.size == 0),
    "prefix": lambda rule, i, j: (j <= i) | (j < rule.size),
    "padding": lambda rule, i, j: rule.table[:, None, None, :].index_select(3, j[0]),
    "documents": lambda rule, i, j: (rule.table[:, i[:, 0], None] == rule.table[:, None, j[0]])[:, None],
    "explicit": lambda rule, i, j: rule.table[..., i - rule.size, j],
}
REASONS = {"causal": "future", "window": "outside the window", "block": "another block", "strided": "off the stride",
           "prefix": "future", "padding": "padding", "documents": "another document", "explicit": "not allowed"}
SPARSE = ("window", "block", "strided")


@dataclass(frozen=True, eq=False)
class Rule:
    """One reason to hide keys: its kind, and the numbers or the table that the kind needs."""

    kind: str
    size: int = 0
    """Slots of a window, block, stride or prefix; of an explicit table the slot of its first row."""
    table: Tensor | None = None
    global_tokens: int = 0
    """With a window, a block or a stride: this many slots at the start see all and are seen by all."""

    @property
    def reason(self) -> str:
        return REASONS[self.kind]

    @property
    def scattered(self) -> bool:
        """Whether a query may see several spans of keys that no table of O(N) size describes."""
        return self.kind == "strided" or self.global_tokens > 0

    def sees(self, i: Tensor, j: Tensor) -> Tensor:
        """Slots (i, 1) and keys (1, j), int64 -> bool, broadcastable to (b, h, i, j)."""
        seen = _SEES[self.kind](self, i, j)
        return seen | (i < self.global_tokens) | (j < self.global_tokens) if self.global_tokens else seen
