"""The one door to attention: which kernel it chooses, what it writes out for it, and what it refuses, in one line each."""

from __future__ import annotations

import pytest
import torch
from formula import Call, call
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import FEW, attend, choose, few, native
from klieg.survey import SurveySpec


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(exact: Call, **given: object) -> str:
        return choose(exact.q, exact.k, exact.v, exact.mask, **{**exact.options, **given})

    short, longer = call("causal").at(torch.float32), call("causal", queries=300, keys=300).at(torch.float32)
    documents = call("causal documents").at(torch.float32)
    assert chosen(short) == "fused"
    assert chosen(short, surveyed=True) == "native"
    assert chosen(short, softcap=2.0) == chosen(short, sinks=torch.zeros(4)) == "native"
    assert chosen(call("causal", value_width=8).at(torch.float32)) == "native"
    assert chosen(documents) == "packed"
    assert chosen(longer) == "native"
    strided = call("causal strided", queries=300, keys=300).at(torch.float32)
    assert chosen(strided) == chosen(strided, surveyed=True) == "sparse"
    assert chosen(call("causal block", queries=300, keys=300).at(torch.float32)) == "native"
    assert chosen(call("causal strided").at(torch.float32)) == "fused"
    strided.q.requires_grad_()
    assert chosen(strided) == "fused"
    one, several = (call(mask, queries=n).at(torch.float32) for mask, n in (("causal", 1), ("padding", FEW)))
    assert chosen(one) == chosen(several) == "few"
    two, more = (call(mask, queries=n).at(torch.float32) for mask, n in (("causal", 2), ("padding", FEW + 1)))
    assert chosen(two) == chosen(more) == chosen(call("causal", queries=1, batch=1).at(torch.float32)) == "fused"
    assert chosen(one, softcap=2.0) == chosen(one, surveyed=True) == "native"
    one.k.requires_grad_()
    assert chosen(one) == chosen(call("causal", queries=1, keys=few.KEYS + 1).at(torch.float32)) == "fused"
    # What carries gradients, or is in float64, or finds no compiled library, goes other ways.
    trained = torch.zeros(1, 1, 45, 45, requires_grad=True)
    assert chosen(short, bias=trained) == "dense"
    longer.q.requires_grad_()
    assert chosen(longer) == "fused"
    assert chosen(longer, softcap=2.0) == "streamed"
    # An additive mask of 4097 x 4097 would be the map over again; causality alone needs none.
    long = torch.zeros(1, 1, 4097, 1)
    nothing = {"softcap": None, "sinks": None, "bias": None}
    assert choose(long, long, long, Mask.causal() & Mask.window(9), **nothing) == "native"
    monkeypatch.setattr(native, "_library", lambda: None)
    assert chosen(call("causal")) == "fused"
    assert choose(long, long, long, Mask.causal() & Mask.window(9), **nothing) == "streamed"
    assert choose(long, long, long, Mask.causal(), **nothing) == "fused"
    assert chosen(short, softcap=2.0) == "dense"
    assert attend(short.q, short.k, short.v, short.mask, survey=SurveySpec()).survey.kernel == "streamed"


def test_attend_says_which_kernel_ran() -> None:
    exact = call("causal").at(torch.float32)
    assert attend(exact.q, exact.k, exact.v, exact.mask).kernel == "fused"
    assert attend(exact.q, exact.k, exact.v, exact.mask, softcap=2.0).kernel == "native"
    assert attend(exact.q, exact.k, exact.v, exact.mask, survey=SurveySpec()).survey.kernel == "native"
    assert attend(exact.q, exact.k, exact.v, exact.mask, survey=SurveySpec(), kernel="dense").kernel == "dense"


def test_a_mask_is_written_out_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = call("causal left padding").at(torch.float32)
    asked = []
    real = Mask.visible
    monkeypatch.setattr(Mask, "visible", lambda self, *given: asked.append(given) or real(self, *given))
    first = attend(exact.q, exact.k, exact.v, exact.mask, kernel="fused")
    again = attend(exact.q, exact.k, exact.v, exact.mask, kernel="fused")
    assert len(asked) == 1 and torch.equal(first.output, again.output)
    attend(exact.q[:, :, -2:], exact.k, exact.v, exact.mask, kernel="fused")
    assert len(asked) == 2


def test_a_mask_used_in_inference_serves_training_too() -> None:
    exact = call("causal left padding").at(torch.float32)
    with torch.inference_mode():
        attend(exact.q, exact.k, exact.v, exact.mask, kernel="fused")
    attend(exact.q.requires_grad_(), exact.k, exact.v, exact.mask, kernel="fused").output.sum().backward()
    assert exact.q.grad.isfinite().all()


def test_one_query_at_the_end_of_a_cache_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mask, "visible", None)
    exact = call("causal", queries=1).at(torch.float32)
    found = attend(exact.q, exact.k, exact.v, exact.mask & Mask.prefix(3) & Mask.window(99))
    torch.testing.assert_close(found.output, exact.formula()[0], atol=2e-6, rtol=0)


def shape(*sizes: int) -> Tensor:
    return torch.zeros(*sizes)


@pytest.mark.parametrize(("given", "says"), [
    ({"q": shape(4, 5, 8)}, "expected q (b, h, i, d)"),
    ({"k": shape(2, 2, 5, 9)}, "q and k of one width"),
    ({"k": shape(1, 2, 5, 8)}, "expected one batch"),
    ({"v": shape(2, 2, 6, 8)}, "k and v of the same heads and keys"),
    ({"q": shape(2, 3, 5, 8)}, "3 query heads over 2 key heads"),
    ({"q": shape(2, 4, 0, 8)}, "at least one query"),
    ({"k": shape(2, 2, 0, 8), "v": shape(2, 2, 0, 8)}, "at least one query and one key"),
    ({"softcap": 0.0}, "softcap 0.0; expected a positive number"),
    ({"sinks": shape(2)}, "expected one for each head, (4,)"),
    ({"bias": shape(4, 5, 6)}, "broadcasts to (2, 4, 5, 5)"),
    ({"mask": Mask.padding(shape(2, 4))}, "Mask.padding() got (2, 4); expected (b, j) = (2, 5)"),
    ({"mask": Mask.documents(shape(3, 5))}, "Mask.documents() got (3, 5)"),
    ({"q": shape(2, 4, 6, 8), "mask": Mask.documents(shape(2, 5))}, "6 queries over 5 keys"),
    ({"mask": Mask.explicit(shape(5, 5))}, "Mask.explicit() got (5, 5)"),
    ({"mask": Mask.explicit(shape(1, 1, 4, 5))}, "covers slots 0 to 4 and 5 keys"),
    ({"mask": Mask.explicit(shape(1, 1, 4, 5), first_slot=1)}, "covers slots 0 to 4"),
    ({"mask": Mask.block(0)}, "Mask.block() got size 0; expected at least 1"),
    ({"mask": Mask.strided(-2)}, "Mask.strided() got size -2"),
    ({"k": shape(2, 2, 5, 8).to("meta")}, "q is on cpu and k is on meta; move all tensors to one device."),
    ({"sinks": shape(4).to("meta")}, "q is on cpu and sinks is on meta"),
    ({"mask": Mask.causal() & Mask.padding(shape(2, 5).to("meta"))}, "q is on cpu and Mask.padding() is on meta"),
    ({"kernel": "dens"}, "Did you mean 'dense'?"),
    ({"kernel": "fused", "softcap": 1.0}, "fused kernel cannot do this call: it knows neither softcap nor sinks"),
    ({"kernel": "packed"}, "packed kernel cannot do this call"),
])
def test_what_does_not_fit_is_said_in_one_line(given: dict, says: str) -> None:
    with pytest.raises(KliegError) as error:
        attend(**{"q": shape(2, 4, 5, 8), "k": shape(2, 2, 5, 8), "v": shape(2, 2, 5, 8), **given})
    assert says in str(error.value) and "\n" not in str(error.value)
