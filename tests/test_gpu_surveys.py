"""The survey of the GPU against the map itself: in Triton's interpreter, on the GPU where there is one, and compiled for one.

The interpreter runs a kernel line by line on the CPU, slowly, so texts are short here and tiles small. What only a
compiler finds is left to the last tests: Triton compiles for a GPU that is not there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hopper import compiled
from test_survey import assert_same, from_the_map
from torch import Tensor

from klieg.attention import Mask, hide, log_sum_exp, scores, weights
from klieg.errors import KliegError
from klieg.kernels import pooled, survey
from klieg.kernels.surveys import received
from klieg.survey import Survey, SurveySpec
from klieg.tiles import Scores

pytest.importorskip("triton", reason="Triton is not installed")
surveys = pytest.importorskip("klieg.kernels.gpu.surveys")
tiles = pytest.importorskip("klieg.kernels.gpu.tiles")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = 5e-6        # of float32, at the size that the truth has
SPEC = SurveySpec(top=2, map=3, bins=9)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BLOCKS", "WIDE_BLOCKS", "FLOAT_BLOCKS"):
        monkeypatch.setattr(tiles, name, (16, 16, 4))


def random(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


class Case:
    """A call of survey() on the device, and what the map itself says of it in float64."""

    def __init__(self, mask: Mask = Mask(), heads: int = 1, groups: int = 1, queries: int = 27, keys: int = 27,  # noqa: B008
                 width: int = 8, batch: int = 1, dtype: torch.dtype = torch.float32, **options: object) -> None:
        q, k = random((batch, heads, queries, width), (batch, groups, keys, width))
        self.q, self.k, self.mask, self.options = q.to(dtype), k.to(dtype), mask, options
        given = {name: x.double() if isinstance(x, Tensor) else x for name, x in options.items()}
        sinks = given.pop("sinks", None)
        self.scores = hide(scores(self.q.double(), self.k.double(), **given), mask)
        self.lse = log_sum_exp(self.scores, sinks)
        self.weights = weights(self.scores, self.lse)

    def truth(self, spec: SurveySpec) -> dict[str, Tensor]:
        return from_the_map(self.weights, self.lse, self.scores, spec)

    def survey(self, spec: SurveySpec, **given: object) -> Survey:
        """By the kernel on the GPU, from the exact log-sum-exp."""
        options = {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in self.options.items()}
        lse = given.pop("lse", self.lse.float()).to(DEVICE)
        found = survey(self.q.to(DEVICE), self.k.to(DEVICE), lse, on_device(self.mask), spec, **options, **given, kernel="gpu")
        assert found.kernel == "gpu"
        return replace(found, **{name: x.cpu() for name, x in found.tensors().items()})


def on_device(mask: Mask) -> Mask:
    return Mask(tuple(rule if rule.table is None else replace(rule, table=rule.table.to(DEVICE)) for rule in mask.rules))


N = 27
REAL = torch.rand(2, N, generator=torch.Generator().manual_seed(1)) < 0.7
LEFT = torch.arange(N)[None] >= torch.tensor([[18], [0]])               # the first queries of a text see nothing
IDS = torch.arange(N)[None].expand(2, -1) // 15
SCATTERED = torch.randint(0, 3, (2, N), generator=torch.Generator().manual_seed(2))
TABLE = torch.rand(1, 2, N, N, generator=torch.Generator().manual_seed(3)) < 0.5
BIAS, = random((1, 2, N, N), seed=4)
BIAS[:, :, 7, 3] = -torch.inf
CASES = {
    "everything": Case(),
    "one key": Case(queries=1, keys=1),
    "one query at the end of a cache": Case(Mask.causal(), queries=1, keys=33, heads=2),
    "causal, grouped heads": Case(Mask.causal(), heads=4, groups=2),
    "causal window": Case(Mask.causal() & Mask.window(9)),
    "a chunk behind others": Case(Mask.causal() & Mask.window(20), queries=11),
    "window of both sides": Case(Mask.window(7)),
    "block": Case(Mask.block(13)),
    "prefix": Case(Mask.prefix(11)),
    "padding with holes": Case(Mask.padding(REAL), batch=2),
    "causal, left padding": Case(Mask.causal() & Mask.padding(LEFT), batch=2),
    "documents": Case(Mask.causal() & Mask.documents(IDS), batch=2),
    "documents in pieces": Case(Mask.documents(SCATTERED), batch=2),
    "explicit": Case(Mask.causal() & Mask.explicit(TABLE), heads=2),
    "softcap": Case(Mask.causal(), softcap=1.5, scale=0.9),
    "bias": Case(Mask.causal(), heads=2, bias=BIAS),
    "sinks": Case(Mask.causal(), heads=2, sinks=torch.tensor([0.5, -1.0])),
    "width of no power of two": Case(Mask.causal(), width=24),
    "bfloat16": Case(Mask.causal(), dtype=torch.bfloat16),
    "float16": Case(Mask.causal(), dtype=torch.float16),
    "more queries than keys": Case(queries=23, keys=14),
    "a long causal text": Case(Mask.causal(), queries=144, keys=144),          # whose buckets end with tiles
    "a long text seen whole": Case(queries=130, keys=150),
    "a long window": Case(Mask.causal() & Mask.window(70), queries=150, keys=150, heads=2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_survey_says_what_the_map_says(name: str) -> None:
    case = CASES[name]
    probe, = random(case.k.shape[:3], seed=5)
    found, truth = case.survey(SPEC, probe=probe.to(DEVICE)), case.truth(SPEC)
    if name == "more queries than keys":
        truth["own"][:, :, :9] = 0
    every = probe.double().repeat_interleave(case.q.shape[1] // case.k.shape[1], dim=1)
    truth["probed"] = (case.weights @ every[..., None])[..., 0]
    truth["top_weights"] = truth["top_weights"][..., :found.top_keys.shape[3]]
    assert_same(found, truth, TOLERANCE)
    assert ((found.top_keys == -1) == (found.top_weights == 0)).all()
    there = case.weights.gather(3, found.top_keys.clamp(min=0)).masked_fill(found.top_keys == -1, 0)
    torch.testing.assert_close(there, found.top_weights.double(), atol=TOLERANCE, rtol=0)
    live = [[n for n in row if n >= 0] for row in found.top_keys.flatten(0, 2).tolist()]
    assert all(len(set(row)) == len(row) for row in live)
    assert (found.entropy >= 0).all() and (found.top_weights <= 1).all()


def test_without_a_log_sum_exp_it_is_found() -> None:
    case = CASES["sinks"]
    found = survey(case.q.to(DEVICE), case.k.to(DEVICE), None, case.mask, SPEC, sinks=case.options["sinks"].to(DEVICE),
                   kernel="gpu")
    torch.testing.assert_close(found.lse.cpu().double(), case.lse, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(found.mass.cpu().double(), case.weights.sum(-1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("usual", [torch.float16, torch.float64])
def test_sums_are_of_float32_whatever_torch_takes_by_default(usual: torch.dtype) -> None:
    case = CASES["causal, grouped heads"]
    probe, = random(case.k.shape[:3], seed=5)
    truth = case.survey(SPEC, probe=probe.to(DEVICE)).tensors()
    torch.set_default_dtype(usual)
    try:
        found = case.survey(SPEC, probe=probe.to(DEVICE)).tensors()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(x.dtype == truth[name].dtype and torch.equal(x, truth[name]) for name, x in found.items())


def test_parts_merge_to_the_whole() -> None:
    """Cut within bands, tiles and buckets."""
    case = CASES["causal, grouped heads"]
    whole, q, k, lse = case.survey(SPEC), case.q.to(DEVICE), case.k.to(DEVICE), case.lse.float().to(DEVICE)
    parts = [survey(q[:, :, rows], k[:, :, keys], lse[:, :, rows], case.mask, SPEC, rows=rows, keys=keys, shape=(N, N),
                    kernel="gpu") for rows in (slice(0, 21), slice(21, N)) for keys in (slice(0, 14), slice(14, N))]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    merged = replace(merged, **{name: x.cpu() for name, x in merged.tensors().items()})
    assert_same(merged, {name: x.double() for name, x in whole.tensors().items() if name != "top_keys"}, TOLERANCE)
    assert torch.equal(merged.top_keys, whole.top_keys) and merged.kernel == "gpu"


@pytest.mark.parametrize("size", [(3, 7), (64, 2)])
def test_a_region_in_buckets(size: tuple[int, int]) -> None:
    case, rows, keys = CASES["causal window"], slice(5, 26), slice(3, 24)
    part = pooled(case.q[:, :, rows].to(DEVICE), case.k[:, :, keys].to(DEVICE), case.lse[:, :, rows].float().to(DEVICE),
                  case.mask, rows=rows, keys=keys, size=size, shape=(N, N), kernel="gpu")
    w = case.weights[:, :, rows, keys]
    down, across = ([n - span.start for n in bounds] for bounds, span in ((part.row_edges, rows), (part.key_edges, keys)))
    for r in range(len(down) - 1):
        for c in range(len(across) - 1):
            cell = w[:, :, down[r]:down[r + 1], across[c]:across[c + 1]]
            torch.testing.assert_close(part.mean[:, :, r, c].cpu().double(), cell.mean((2, 3)), atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(part.max[:, :, r, c].cpu().double(), cell.amax((2, 3)), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["causal, grouped heads", "causal, left padding", "documents in pieces", "bias", "softcap"])
def test_a_tile_is_exact(name: str) -> None:
    case, rows, keys = CASES[name], slice(6, N), slice(4, 24)
    bias, softcap = case.options.get("bias"), case.options.get("softcap")
    bias = None if bias is None else bias[:, :, rows, keys].to(DEVICE)
    part = Scores(case.q[:, :, rows].to(DEVICE), case.k[:, :, keys].to(DEVICE), on_device(case.mask),
                  case.options.get("scale", 8**-0.5), softcap, bias, rows.start, keys.start)
    found = tiles.tile(part, case.lse[:, :, rows].float().to(DEVICE))
    torch.testing.assert_close(found.cpu().double(), case.weights[:, :, rows, keys], atol=TOLERANCE, rtol=0)


def test_launches_of_any_size_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(Mask.causal(), queries=40, keys=40)
    runs = []
    for room in (2**26, 1, 2**26):
        monkeypatch.setattr(surveys, "WORKSPACE", room)
        runs.append(case.survey(SPEC).tensors())
    assert all(torch.equal(run[name], x) for run in runs[1:] for name, x in runs[0].items())


@pytest.mark.parametrize("kernel", ["gpu", "native", "streamed"])
def test_sums_of_columns_alone(kernel: str) -> None:
    case, there = CASES["causal, grouped heads"], DEVICE if kernel == "gpu" else torch.device("cpu")
    found = received(case.q.to(there), case.k.to(there), case.lse.float().to(there), case.mask, kernel=kernel)
    torch.testing.assert_close(found.cpu().double(), case.weights.sum(2), atol=TOLERANCE * 10, rtol=0)


def test_of_equal_weights_the_first_are_named() -> None:
    """Also while another row of the band goes on looking: the last key is the best of row 0."""
    q, k = torch.zeros(1, 1, 20, 8, device=DEVICE), torch.zeros(1, 1, 20, 8, device=DEVICE)
    q[..., 0, :], k[..., 19, :] = 1, 1
    found = survey(q, k, None, Mask(), SurveySpec(top=5, map=0), kernel="gpu")
    assert (found.top_keys[:, :, 1:].cpu() == torch.arange(5)).all()
    assert found.top_keys[0, 0, 0].tolist() == [19, 0, 1, 2, 3]
    torch.testing.assert_close(found.top_weights[:, :, 1:].cpu(), torch.full((1, 1, 19, 5), 0.05))


def test_of_equal_tiles_the_first_stay() -> None:
    """When a better one comes, it takes the place of the last."""
    q, k = torch.zeros(1, 1, 3, 8, device=DEVICE), torch.zeros(1, 1, 80, 8, device=DEVICE)
    q[..., 0], k[..., 70, 0] = 1, 1
    found = survey(q, k, None, Mask(), SurveySpec(top=2, map=0), kernel="gpu")
    assert found.top_keys.tolist() == [[[[70, 0]] * 3]]


@pytest.mark.parametrize("rising", [False, True])
def test_the_largest_weights_may_all_lie_in_one_tile_or_come_last(monkeypatch: pytest.MonkeyPatch, rising: bool) -> None:
    """In tiles of 64 keys, of which all are marked; or every tile is better than those before."""
    for name in ("BLOCKS", "WIDE_BLOCKS", "FLOAT_BLOCKS"):
        monkeypatch.setattr(tiles, name, (16, 64, 4))
    q, k = random((1, 1, 3, 8), (1, 1, 400, 8))
    q[..., 0], k[..., 0] = 1, 0
    if rising:
        k[..., 0] = torch.linspace(0, 40, 400)
    else:
        k[:, :, 64:128, 0] = 40
    scores, spec = q.double() @ k.double().mT * 8**-0.5, SurveySpec(top=5, map=0)
    found = survey(q.to(DEVICE), k.to(DEVICE), None, Mask(), spec, kernel="gpu")
    truth = torch.softmax(scores, -1).topk(5)
    torch.testing.assert_close(found.top_weights.cpu().double(), truth.values, atol=TOLERANCE, rtol=1e-4)
    assert torch.equal(found.top_keys.cpu(), truth.indices)
    if not rising:
        assert ((found.top_keys >= 64) & (found.top_keys < 128)).all()


def test_a_row_that_is_said_to_see_nothing_has_no_weights() -> None:
    case = CASES["everything"]
    lse = case.lse.float()
    lse[0, 0, 2] = -torch.inf
    found = case.survey(SPEC, lse=lse)
    assert found.mass[0, 0, 2] == found.entropy[0, 0, 2] == 0 and (found.top_keys[0, 0, 2] == -1).all()
    torch.testing.assert_close(found.received.sum(), found.mass.sum())


def test_what_a_forward_pass_knows_of_the_rows_is_taken() -> None:
    case = CASES["causal window"]
    whole = case.survey(SPEC)
    lines = {name: torch.full_like(case.lse, 0.5, dtype=torch.float32, device=DEVICE) for name in surveys.LINES}
    found = case.survey(SPEC, lines=lines)
    for name, x in found.tensors().items():
        assert torch.equal(x, torch.full_like(x, 0.5) if name in lines else getattr(whole, name)), name


@pytest.mark.parametrize(("given", "why"), [
    ({"spec": SurveySpec(top=200), "keys": 300}, "at most the 128 largest weights of a row, not 200"),
    ({"lse": torch.zeros(1, 1, N, dtype=torch.float64)}, "its log-sum-exp is in float32, not in float64"),
    ({"width": 300}, "heads of a width up to 256, not 300"),
    ({"mask": Mask.strided(5)}, "strides and global tokens would need a table")])
def test_what_it_cannot_do_is_said(given: dict, why: str) -> None:
    lse, spec = given.pop("lse", None), given.pop("spec", SPEC)
    case = Case(**given)
    with pytest.raises(KliegError, match=f"the gpu kernel cannot make this survey: .*{why}"):
        survey(case.q, case.k, lse, case.mask, spec, kernel="gpu")


SWEEP = """
from klieg.attention import Mask
from klieg.kernels.gpu import surveys, tiles
from klieg.kernels.native import Wanted
from klieg.tiles import Scores

# The smallest tiles that take the matrix unit: compiling takes seconds then.
tiles.BLOCKS = (64, 32, 4)
q, k = torch.zeros(1, 4, 256, 64, dtype=torch.bfloat16), torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16)
real = torch.ones(1, 256, dtype=torch.bool)
real[0, 100] = False
part = Scores.of(q, k, Mask.causal() & Mask.padding(real), scale=0.1, softcap=2.0, bias=torch.zeros(1, 1, 256, 256))
wanted = Wanted(sums=True, bins=20, top=4, row_edges=[0, 100, 256], key_edges=[0, 30, 256])
surveys.compute(part, wanted, torch.zeros(1, 4, 256), probe=torch.zeros(1, 2, 256))
tiles.tile(Scores.of(q, k, Mask.causal(), scale=0.1, softcap=None, bias=None), torch.zeros(1, 4, 256))
print(*sorted(made), "wgmma" in made["_sweep"], "atom." in "".join(made.values()))
"""


def test_it_compiles_for_hopper_without_one(tmp_path: Path) -> None:
    """The interpreter forgives what the compiler refuses. Products take the matrix unit, and nothing is added atomically."""
    assert compiled(SWEEP, tmp_path) == ["_add", "_block", "_pick", "_sweep", "_united", "True", "False"]
