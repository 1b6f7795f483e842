"""A computation as ONNX has it, written down node by node: what onnx.py builds its models of.

Nothing is traced, so nothing depends on the shapes of an example, and the graph has only what the
formula has. Operators are those of opset 17 (2022), which every runtime has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from klieg.errors import KliegError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR = 17, 8
LARGEST = 2**31 - 2**20  # bytes of one file; a protobuf holds no more


class Graph:
    """Grows a graph; each method adds nodes and returns the name of what they give."""

    def __init__(self) -> None:
        self._nodes: list = []
        self._weights: dict = {}
        self._inputs: list = []
        self._outputs: list = []

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        from onnx import helper

        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def given(self, name: str, *axes: str | int, real: bool = False) -> str:
        """An input: ids (int64), or numbers (float32) with real=True."""
        self._inputs.append(_described(name, axes, real))
        return name

    def gives(self, name: str, value: str, *axes: str | int) -> None:
        """An output of numbers."""
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(_described(name, axes, True))

    def weight(self, name: str, tensor: Tensor) -> str:
        """A constant of numbers, float32, under a name of its own."""
        from onnx import numpy_helper

        assert name not in self._weights, name
        self._weights[name] = numpy_helper.from_array(tensor.detach().float().cpu().contiguous().numpy(), name)
        return name

    def whole(self, *numbers: int) -> str:
        """A constant vector of whole numbers."""
        import numpy as np
        from onnx import numpy_helper

        name = "whole " + " ".join(map(str, numbers))
        self._weights[name] = numpy_helper.from_array(np.array(numbers, dtype=np.int64), name)
        return name

    def number(self, value: float) -> str:
        """A constant number."""
        import numpy as np
        from onnx import numpy_helper

        name = f"number {value!r}"
        self._weights[name] = numpy_helper.from_array(np.array(value, dtype=np.float32), name)
        return name

    def size(self, x: str, axis: int) -> str:
        """The length of one axis, as a vector of one number."""
        return self("Shape", x, start=axis, end=axis + 1)

    def linear(self, x: str, name: str, layer: nn.Module) -> str:
        """x W^T + b of a layer that keeps W (outputs, inputs)."""
        return self.affine(x, name, layer.weight.T, layer.bias)

    def affine(self, x: str, name: str, matrix: Tensor, bias: Tensor | None) -> str:
        """x W + b with W (inputs, outputs)."""
        y = self("MatMul", x, self.weight(f"{name}.matrix", matrix))
        return y if bias is None else self("Add", y, self.weight(f"{name}.bias", bias))

    def layer_norm(self, x: str, name: str, norm: nn.LayerNorm) -> str:
        return self("LayerNormalization", x, self.weight(f"{name}.weight", norm.weight),
                    self.weight(f"{name}.bias", norm.bias), axis=-1, epsilon=norm.eps)

    def rms_norm(self, x: str, name: str, norm: nn.Module) -> str:
        mean = self("ReduceMean", self("Mul", x, x), axes=[-1])
        root = self("Sqrt", self("Add", mean, self.number(norm.eps)))
        return self("Mul", self("Div", x, root), self.weight(f"{name}.weight", norm.weight))

    def gelu(self, x: str) -> str:
        """GPT-2's tanh form."""
        cube = self("Mul", self("Mul", x, x), x)
        inner = self("Mul", self("Add", x, self("Mul", cube, self.number(0.044715))), self.number((2 / math.pi) ** 0.5))
        return self("Mul", self("Mul", x, self.number(0.5)), self("Add", self("Tanh", inner), self.number(1.0)))

    def erf_gelu(self, x: str) -> str:
        """BERT's exact form."""
        inner = self("Add", self("Erf", self("Mul", x, self.number(0.5 ** 0.5))), self.number(1.0))
        return self("Mul", self("Mul", x, self.number(0.5)), inner)

    def slots(self, ids: str) -> str:
        """0, 1, ... for each id of a row: (i,)."""
        return self("Range", *(self("Squeeze", n) for n in (self.whole(0), self.size(ids, 1), self.whole(1))))

    def split(self, x: str, heads: int) -> str:
        """(b, i, heads * d) -> (b, heads, i, d)."""
        return self("Transpose", self("Reshape", x, self.whole(0, 0, heads, -1)), perm=[0, 2, 1, 3])

    def attention(self, q: str, k: str, v: str, heads: int, groups: int, width: int, hidden: str) -> str:
        """The formula: q (b, h, i, d), k and v (b, g, j, d), hidden added to the scores -> (b, i, h * d)."""
        q = self("Mul", q, self.number(width ** -0.5))
        if heads != groups:
            q = self("Reshape", q, self.whole(0, groups, -1, width))
        s = self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2]))
        if heads != groups:
            s = self("Reshape", s, self.whole(0, heads, -1, 0))
        w = self("Softmax", self("Add", s, hidden), axis=-1)
        if heads != groups:
            w = self("Reshape", w, self.whole(0, groups, -1, 0))
        y = self("MatMul", w, v)
        if heads != groups:
            y = self("Reshape", y, self.whole(0, heads, -1, width))
        return self("Reshape", self("Transpose", y, perm=[0, 2, 1, 3]), self.whole(0, 0, heads * width))

    def hidden(self, seen: str) -> str:
        """bool -> 0 where it is true and minus infinity elsewhere."""
        return self("Where", seen, self.number(0.0), self.number(float("-inf")))

    def padding(self, mask: str) -> str:
        """mask (b, j), 1 for what is real -> hidden (b, 1, 1, j)."""
        return self.hidden(self("Cast", self("Unsqueeze", mask, self.whole(1, 2)), to=9))

    def causal(self, ids: str, past: str) -> tuple[str, str]:
        """Slots of the queries (i,), and hidden (i, j) of them over past and present."""
        start = self.size(past, 2)
        stop = self("Add", start, self.size(ids, 1))
        zero, one, start, stop = (self("Squeeze", n) for n in (self.whole(0), self.whole(1), start, stop))
        slots, keys = self("Range", start, stop, one), self("Range", zero, stop, one)
        seen = self("LessOrEqual", self("Unsqueeze", keys, self.whole(0)), self("Unsqueeze", slots, self.whole(1)))
        return slots, self.hidden(seen)

    def model(self, name: str) -> ModelProto:
        """All of it, checked."""
        import onnx
        from onnx import helper

        if sum(len(weight.raw_data) for weight in self._weights.values()) > LARGEST:
            raise KliegError("the model has more than 2 GiB in float32, and an ONNX file holds no more; export to huggingface.")
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._weights.values()))
        model = helper.make_model(graph, producer_name="klieg", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(model)
        return model


def _described(name: str, axes: tuple[str | int, ...], real: bool) -> object:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT if real else TensorProto.INT64, list(axes))
