"""What a tile of weights adds to its rows, on the GPU."""

from __future__ import annotations

import triton
import triton.language as tl

from klieg.kernels.gpu.scores import LN2

NOTHING = tl.constexpr(-1e30)       # bits of a weight of 0: finite, so that its share of the entropy is no NaN


@triton.jit
def single(w: tl.tensor, at: tl.tensor, wanted: tl.tensor, KEYS: tl.constexpr) -> tl.tensor:
    """The weight of every row on the key that is wanted of it, 0 where that is not among the KEYS from `at` on."""
    found = tl.zeros((w.shape[0],), tl.float32)
    if (tl.max(wanted, 0) >= at) & (tl.min(wanted, 0) < at + KEYS):
        found = tl.sum(tl.where((at + tl.arange(0, KEYS))[None, :] == wanted[:, None], w, 0.0), 1)
    return found


@triton.jit
def moments(far: tl.tensor, farther: tl.tensor, w: tl.tensor, mass: tl.tensor, at: tl.tensor, slots: tl.tensor,
            KEYS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Adds a tile's weights times distances, and times their squares, to sums in float64.

    A distance is the gap to the nearest key of the tile and the steps from there: nothing cancels.
    """
    nearest = tl.minimum(tl.maximum(slots - at, 0), KEYS - 1)
    steps = tl.abs(tl.arange(0, KEYS)[None, :] - nearest[:, None]).to(tl.float32)
    walked = w * steps
    return _moved(far, farther, mass, tl.sum(walked, 1), tl.sum(walked * steps, 1), tl.abs(slots - at - nearest))


@triton.jit
def moments_of_one_side(far: tl.tensor, farther: tl.tensor, w: tl.tensor, mass: tl.tensor, at: tl.tensor, slots: tl.tensor,
                        nearest: tl.tensor, KEYS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The same of a tile whose keys all lie before all slots, or all behind: `nearest` is its last key then, or its first."""
    steps = tl.abs(tl.arange(0, KEYS) - nearest).to(tl.float32)
    once, twice = tl.sum(w * steps[None, :], 1), tl.sum(w * (steps * steps)[None, :], 1)
    return _moved(far, farther, mass, once, twice, tl.abs(slots - at - nearest))


@triton.jit
def _moved(far: tl.tensor, farther: tl.tensor, mass: tl.tensor, once: tl.tensor, twice: tl.tensor,
           gap: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Both sums after a tile a gap away, with the sums `once` of its steps and `twice` of their squares."""
    once, twice, gap = once.to(tl.float64), twice.to(tl.float64), gap.to(tl.float64)
    wide = gap * mass.to(tl.float64)
    return far + wide + once, farther + gap * (wide + 2 * once) + twice


@triton.jit
def mixed(base: tl.tensor, w: tl.tensor, at: tl.tensor, keys: tl.tensor, KEYS: tl.constexpr) -> tl.tensor:
    """The weights of every row times the numbers of their keys."""
    here = at + tl.arange(0, KEYS)
    return tl.sum(w * tl.load(base + here, mask=here < keys, other=0.0)[None, :], 1)


@triton.jit
def store_lines(lines: tl.tuple, line: tl.tensor, live: tl.tensor, peak: tl.tensor, mass: tl.tensor, entropy: tl.tensor,
                first: tl.tensor, own: tl.tensor) -> None:
    """Stores what a band has of every row, in nats, where it is wanted."""
    if lines is not None:
        tl.store(lines[0] + line, tl.where(peak > NOTHING, peak * LN2, float("-inf")), mask=live)
        tl.store(lines[1] + line, mass, mask=live)
        tl.store(lines[2] + line, entropy * LN2, mask=live)
        tl.store(lines[3] + line, first, mask=live)
        tl.store(lines[4] + line, own, mask=live)


@triton.jit
def store_distances(distances: tl.tuple, line: tl.tensor, live: tl.tensor, far: tl.tensor, farther: tl.tensor) -> None:
    """Stores both sums of moments(), where they are wanted."""
    if distances is not None:
        tl.store(distances[0] + line, far, mask=live)
        tl.store(distances[1] + line, farther, mask=live)


@triton.jit
def store_probed(probe: tl.tuple, line: tl.tensor, live: tl.tensor, probed: tl.tensor) -> None:
    """Stores the sums of mixed(), where they are wanted."""
    if probe is not None:
        tl.store(probe[3] + line, probed, mask=live)
