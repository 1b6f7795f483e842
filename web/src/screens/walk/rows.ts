// Which tokens of a long text the walk shows: those that must be there, and the neighbours of one of them.

// At most `size` of `count` tokens, in order; the nearest to `centre` fill what `always` leaves.
export function around(count: number, size: number, always: number[], centre: number): number[] {
  if (count <= size) return Array.from({ length: count }, (_, n) => n)
  const found = new Set(always)
  for (let far = 0; found.size < size && far < count; far++) {
    for (const n of [centre - far, centre + far]) if (n >= 0 && n < count && found.size < size) found.add(n)
  }
  return [...found].sort((a, b) => a - b)
}

// What was shown before, where it still has all that must be there: nothing moves under the pointer.
export function steady(before: number[], count: number, size: number, always: number[], centre: number): number[] {
  const fits = before.length === Math.min(count, size) && before[before.length - 1] < count && always.every((n) => before.includes(n))
  return fits ? before : around(count, size, always, centre)
}

// The places before which tokens are left out, and how many.
export function gaps(rows: number[]): Map<number, number> {
  return new Map(rows.map((row, n) => [n, n ? row - rows[n - 1] - 1 : row] as const).filter(([, left]) => left > 0))
}
