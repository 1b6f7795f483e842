"""Products with matrices kept in bfloat16 against float64, by the native kernel and without it."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F

from klieg import half
from klieg.layers import Linear


@pytest.fixture(params=["native", "without"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(half, "native", lambda: None)
    elif half.native() is None:
        pytest.skip("Klieg was installed without a C++ compiler")
    return request.param


@pytest.mark.parametrize("rows,inputs,outputs", [(1, 256, 688), (1, 1, 1), (1, 33, 7), (3, 17, 5), (4, 688, 256),
                                                 (9, 64, 30)])
def test_the_product_is_that_of_the_widened_matrix(kernel: str, rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(rows * inputs)
    x, w, bias = torch.randn(2, rows, inputs), torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs)
    exact = F.linear(x.double(), w.double(), bias.double())
    plain = (F.linear(x, w.float(), bias).double() - exact).abs().max()
    for given in (x, x[:1], x[0], x.transpose(0, 1)):
        found = half.linear(given, w, bias)
        expected = F.linear(given.double(), w.double(), bias.double())
        assert found.dtype == torch.float32 and found.shape == expected.shape
        assert (found - expected).abs().max() <= 2 * plain + 1e-6 * inputs**0.5
    assert torch.equal(half.linear(x[0, 0], w), half.linear(x[0, 0], w, torch.zeros(outputs)))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_several_layers_together_are_each_of_them(kernel: str, rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layers = [Linear(24, outputs, bias=bias).requires_grad_(False) for outputs in (8, 3, 5)]
    for layer in layers:
        layer.weight.data = torch.randn(layer.weight.shape).bfloat16()
        if bias:
            layer.bias.data = torch.randn(layer.bias.shape)
    x = torch.randn(1, rows, 24)
    for found, layer in zip(half.together(x, *layers), layers, strict=True):
        assert torch.allclose(found, F.linear(x, layer.weight.float(), layer.bias), atol=1e-5)


def test_matrices_of_one_type_are_left_to_torch() -> None:
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    half.linear(x, w).sum().backward()
    assert torch.allclose(w.grad, x.detach().sum(0).expand(5, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert half.linear(x, w).dtype == torch.bfloat16


def test_what_is_worth_keeping() -> None:
    kept = half.native() is not None
    assert half.worthwhile(torch.zeros(4, 4).bfloat16()) is kept
    assert not half.worthwhile(torch.zeros(4).bfloat16()) and not half.worthwhile(torch.zeros(4, 4))


@pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="there is no C++ compiler here")
def test_the_native_library_is_installed_where_there_is_a_compiler() -> None:
    assert half.native() is not None
