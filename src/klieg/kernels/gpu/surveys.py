"""The survey on the GPU: one sweep over the map from q, k and the log-sum-exp, each program a band of queries.

What belongs to rows, to buckets and to distances stays in the registers of a program. What belongs to columns is
the sum of many programs: each writes its own sums to a workspace, and they are added in the order of the queries.
Nothing is added by whoever comes first, so every run gives the same bits. The workspace is bounded: long texts are
swept in several launches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from klieg.kernels.gpu import on_its_card, ready
from klieg.kernels.gpu.bins import alike_until, by_distance, in_one_bin, store_bins
from klieg.kernels.gpu.buckets import Pool, closed, opened, pooled, stored
from klieg.kernels.gpu.largest import HIDDEN, Tops, insert, none_yet
from klieg.kernels.gpu.lines import (
    NOTHING,
    mixed,
    moments,
    moments_of_one_side,
    single,
    store_distances,
    store_lines,
    store_probed,
)
from klieg.kernels.gpu.scores import arguments, load_tile, padded, place
from klieg.kernels.gpu.tiles import blocks, logs_of, score_bits
from klieg.kernels.gpu.visible import reach, span_of, tabled
from klieg.kernels.native import Wanted
from klieg.tiles import Scores

# Numbers in the workspace of columns (256 MB), or an eighth of those in q where that is more.
WORKSPACE = 2**26

COLUMNS = 256       # that one program of _add() adds

# What is found of every row, by its name in klieg.survey.Survey; a forward pass may have the first already.
LINES, MOMENTS = ("max", "mass", "entropy", "first", "own"), ("distance_sum", "distance_squares")
ASKED = ("columns", "lines", "distances", "probe", "histogram", "pool", "tops")


@triton.jit
def _store_columns(columns: tl.tuple, w: tl.tensor, at: tl.tensor, band: tl.tensor, keys: tl.tensor,
                   KEYS: tl.constexpr) -> None:
    """The sums of a tile's columns, to the band's own line of the workspace."""
    here = at + tl.arange(0, KEYS)
    line = tl.cast(tl.program_id(1), tl.int64) * tl.num_programs(0) + band
    tl.store(columns[0] + line * keys + here, tl.sum(w, 0), mask=here < keys)


@triton.jit
def _store_reach(columns: tl.tuple, band: tl.tensor, start: tl.tensor, stop: tl.tensor, KEYS: tl.constexpr) -> None:
    """From which column to which a band has written, where columns are wanted."""
    if columns is not None:
        line = tl.cast(tl.program_id(1), tl.int64) * tl.num_programs(0) + band
        tl.store(columns[1] + 2 * line, start)
        tl.store(columns[1] + 2 * line + 1, start + (stop - start + KEYS - 1) // KEYS * KEYS)


@triton.jit
def _add(columns: tl.tensor, reached: tl.tensor, bands: tl.tensor, keys: tl.tensor, received: tl.tensor,
         COLUMNS: tl.constexpr) -> None:
    """Adds what some bands have of some columns of one head, in the order of the bands."""
    pid, here = tl.cast(tl.program_id(1), tl.int64), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.load(received + pid * keys + here, mask=here < keys, other=0.0)
    for band in range(bands):
        line = pid * bands + band
        start, stop = tl.load(reached + 2 * line), tl.load(reached + 2 * line + 1)
        inside = (here >= start) & (here < tl.minimum(stop, keys))
        total += tl.load(columns + line * keys + here, mask=inside, other=0.0)
    tl.store(received + pid * keys + here, total, mask=here < keys)


@triton.jit
def _weigh(q_tile: tl.tensor, k_tile: tl.tensor, at: tl.tensor, whole: tl.tensor, of: tl.tuple, about: tl.tuple,
           asked: tl.tuple, found: tl.tuple, KEYS: tl.constexpr, SLOTS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The weights of a tile, what they have in each row, and each row's largest, in log2; stores what they have in each
    column, and adds to `found` what is found in rows whatever their keys.

    of: (rows, line, live, logs, spans, local) of the queries; asked: (columns, lines, probe from its first key on, pool,
    tops); found: (entropy, probed, lists).
    """
    rows, line, live, logs, spans, local = of
    columns, lines, probed_at, pool, tops = asked
    entropy, probed, lists = found
    dot = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
    x = score_bits(dot, at, whole, spans, rows, about, KEYS) - logs[:, None]
    w, peak = tl.exp2(x), rows * 0.0
    if columns is not None:
        _store_columns(columns, w, at, local, about[3], KEYS)
    if lines is not None:
        entropy -= tl.sum(w * x, 1)
    if probed_at is not None:
        probed += mixed(probed_at, w, at, about[3], KEYS)
    if lines is not None or pool is not None or SLOTS > 0:
        peak = tl.max(x, 1)
    if SLOTS:
        lists = insert(x, peak, at, lists, tops, line, live, SLOTS, KEYS)
    return w, tl.sum(w, 1), peak, (entropy, probed, lists)


@triton.jit
def _run(q_tile: tl.tensor, k: tl.tuple, base: tl.tensor, at: tl.tensor, end: tl.tensor, of: tl.tuple, about: tl.tuple,
         asked: tl.tuple, found: tl.tuple, distances: tl.tuple, far: tl.tensor, farther: tl.tensor, slots: tl.tensor,
         before: tl.tensor, WIDTH: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr,
         SLOTS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """A run of tiles that the rows see whole, all `before` their slots or all behind: what rows have and their largest, in
    log2, and what was carried."""
    held = slots * 0.0
    highest, nearest = held + NOTHING, tl.where(before, KEYS - 1, 0)
    for here in range(at, end, KEYS):
        k_tile = load_tile(base, here, k[3], about[3], KEYS, WIDTH, PADDED, True)
        w, mass, peak, found = _weigh(q_tile, k_tile, here, True, of, about, asked, found, KEYS, SLOTS)
        held, highest = held + mass, tl.maximum(highest, peak)
        if distances is not None:
            far, farther = moments_of_one_side(far, farther, w, mass, here, slots, nearest, KEYS)
    return held, highest, found, far, farther


@triton.jit
def _sweep(q: tl.tuple, k: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple, bias: tl.tuple,
           scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor, keys: tl.tensor, offset: tl.tensor, repeat: tl.tensor,
           lse: tl.tensor, heads: tl.tensor, first_band: tl.tensor, first_key: tl.tensor, columns: tl.tuple, lines: tl.tuple,
           distances: tl.tuple, probe: tl.tuple, histogram: tl.tuple, pool: tl.tuple, tops: tl.tuple, WIDTH: tl.constexpr,
           PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BINS: tl.constexpr,
           SLOTS: tl.constexpr) -> None:
    """One band of queries of one head, over all keys that it sees. What is None or 0 is not wanted.

    Tiles that the band sees whole, in one bucket of keys and one bin of distance, make a run, and nothing is asked of each.
    """
    local, pid = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)        # under causality the longest first
    band, text, head, none = first_band + local, pid // heads, pid % heads, tl.zeros((ROWS,), tl.float32)
    rows = band * ROWS + tl.arange(0, ROWS)
    line, slots, spans = tl.cast(pid, tl.int64) * queries + rows, rows + offset, span_of(row_spans, text, rows, queries)
    low, high = band * ROWS + offset, tl.minimum(band * ROWS + ROWS, queries) - 1 + offset
    start, whole_start, whole_stop, stop = reach(spans[0], spans[1], KEYS, tabled(tables))
    base, about = place(k, text, head // repeat), (text, head, queries, keys, scale, softcap, bias, tables)
    of = rows, line, rows < queries, logs_of(lse, line, rows < queries), spans, local
    asked = columns, lines, None if probe is None else place(probe, text, head // repeat), pool, tops
    q_tile = load_tile(place(q, text, head), band * ROWS, q[3], queries, ROWS, WIDTH, PADDED, False)
    found = none, none, none_yet(0 if tops is None else tops[2], ROWS, SLOTS if SLOTS else 1)
    top, total, first, own, far, farther = none + NOTHING, none, none, none, none.to(tl.float64), none.to(tl.float64)
    sums, peaks, bucket, bins = none, none, opened(pool, start, keys), tl.zeros((BINS if BINS else 1,), tl.float32)
    at = start
    while at < stop:
        end = tl.where(at >= whole_start, whole_stop, at)
        if pool is not None:
            sums, peaks, bucket, edge = closed(sums, peaks, bucket, at, band, rows, queries, pool)
            end = tl.minimum(end, edge)
        if BINS:
            # The first key of all has a line of its own.
            end = tl.where(at + first_key == 0, at, tl.minimum(end, alike_until(at, low, high)))
        end = tl.maximum(end // KEYS * KEYS, at)
        if end > at:
            held, peak, found, far, farther = _run(q_tile, k, base, at, end, of, about, asked, found, distances, far, farther,
                                                   slots, at <= high, WIDTH, PADDED, KEYS, SLOTS)
            if BINS:
                bins += in_one_bin(held, tl.where(at > high, at - high, high - at), histogram[1], BINS)
            if pool is not None:
                sums, peaks = sums + held, tl.maximum(peaks, tl.exp2(peak))
        else:
            k_tile, whole = load_tile(base, at, k[3], keys, KEYS, WIDTH, PADDED, False), (at >= whole_start) & (at < whole_stop)
            w, held, peak, found = _weigh(q_tile, k_tile, at, whole, of, about, asked, found, KEYS, SLOTS)
            if lines is not None:
                first, own = first + single(w, at, rows * 0 - first_key, KEYS), own + single(w, at, slots, KEYS)
            if distances is not None:
                far, farther = moments(far, farther, w, held, at, slots, KEYS)
            if BINS:
                bins += by_distance(w, held, at, rows, offset, queries, keys, histogram[1], KEYS, BINS)
            if pool is not None:
                sums, peaks, bucket = pooled(w, held, at, sums, peaks, bucket, band, rows, queries, keys, pool, KEYS)
            end = at + KEYS
        top, total, at = tl.maximum(top, peak), total + held, end
    _store_reach(columns, local, start, stop, KEYS)
    store_lines(lines, line, of[2], tl.where(top > HIDDEN, top + of[3], NOTHING), total, found[0], first, own)
    store_distances(distances, line, of[2], far, farther)
    store_probed(probe, line, of[2], found[1])
    store_bins(histogram, band, bins)
    if pool is not None:
        stored(sums, peaks, bucket, band, rows, queries, pool)


@on_its_card
@torch.no_grad()
def compute(scores: Scores, wanted: Wanted, lse: Tensor, *, probe: Tensor | None = None,
            lines: dict[str, Tensor] | None = None, columns: bool = False) -> dict[str, Tensor]:
    """What was wanted of a part of a map by name, as native.compute() gives it; no output. With `columns` alone, only
    the sums of columns.

    lse (b, h, i) is final. `lines` are those of LINES that a forward pass has, (b, h, i): they are given back, and the
    sweep makes what is left. `probe` is (b, g, j), a number for every key.
    """
    q, k = ready(scores.q, scores.k)
    scores, keys = replace(scores, q=q, k=k), k.shape[2]
    (batch, heads, queries, width), size, rows = q.shape, blocks(q, wanted.top), q.shape[:3]
    bands, every, told = triton.cdiv(queries, size["ROWS"]), batch * heads, arguments(scores)
    lse = lse.float().contiguous()
    found, asked = {"lse": lse, **(lines or {})}, dict.fromkeys(ASKED)
    step, bins, columns = bands, 0, columns or wanted.sums
    if columns:
        step = max(1, min(bands, max(WORKSPACE, q.numel() // 8) // (every * keys)))
        found["received"] = q.new_zeros(batch, heads, keys, dtype=torch.float32)
        asked["columns"] = (q.new_empty(every * step * keys, dtype=torch.float32),
                            q.new_empty(2 * every * step, dtype=torch.int32))
    if wanted.sums:
        bins = triton.next_power_of_2(wanted.bins)
        asked["histogram"] = q.new_empty(every, bands, bins, dtype=torch.float32), wanted.bins, bands
        found |= {name: q.new_empty(rows, dtype=torch.float64) for name in MOMENTS}
        asked["distances"] = tuple(found[name] for name in MOMENTS)
        if lines is None:
            found |= {name: q.new_empty(rows, dtype=torch.float32) for name in LINES}
            asked["lines"] = tuple(found[name] for name in LINES)
    if probe is not None:
        probe = probe.float().contiguous()
        found["probed"] = q.new_empty(rows, dtype=torch.float32)
        asked["probe"] = probe, probe.stride(0), probe.stride(1), found["probed"]
    if wanted.row_edges:
        pool = Pool((batch, heads), wanted.row_edges, wanted.key_edges, size["ROWS"], q.device)
        asked["pool"] = pool.arguments()
    if wanted.top:
        tops = Tops(scores, wanted.top)
        asked["tops"] = tops.arguments()
    for first in range(0, bands, step):
        count = min(step, bands - first)
        _sweep[count, every](**told, **asked, lse=lse, heads=heads, first_band=first, first_key=scores.first_key,
                             PADDED=padded(width), BINS=bins,
                             SLOTS=tops.slots if wanted.top else 0, **size, enable_fp_fusion=True)
        if columns:
            _add[triton.cdiv(keys, COLUMNS), every](*asked["columns"], count, keys, found["received"], COLUMNS=COLUMNS,
                                                    enable_fp_fusion=True)
    if wanted.sums:
        found["histogram"] = asked["histogram"][0].sum(1)[:, :wanted.bins].unflatten(0, (batch, heads))
    if wanted.row_edges:
        found["map_sum"], found["map_max"] = pool.united()
    if wanted.top:
        found["top_weights"], found["top_keys"] = tops.picked(scores, lse)
    return found
