// What two texts have in common: the word to begin with, and two lists of next tokens as one.
import type { Candidate } from '../../wire/trace'

const MARK = /^(⟨.*⟩|\[[A-Z]+\]|<.*>)$/u   // marks such as ⟨s⟩, [SEP] and </s> stand in every text
const WORD = /[\p{L}\p{N}]/u

// The last token of the longest run of words that both texts have; of a text beside itself, of one that it has twice.
// Where there is none: the last token of each, or the last two of one.
export function common(a: string[], b: string[], oneText: boolean): [number, number] {
  let best = 0, found: [number, number] = [oneText ? Math.max(a.length - 2, 0) : a.length - 1, b.length - 1]
  let above = new Int32Array(b.length + 1)   // characters of the run that ends at a's token before and b's j-th
  for (const [i, token] of a.entries()) {
    const here = new Int32Array(b.length + 1)
    for (let j = oneText ? i + 1 : 0; j < b.length; j++) {
      if (token !== b[j] || MARK.test(token) || !WORD.test(token)) continue
      here[j + 1] = above[j] + [...token].length
      if (here[j + 1] >= best) [best, found] = [here[j + 1], [i, j]]
    }
    above = here
  }
  return found
}

export interface Row { token: string; a: number | null; b: number | null }   // probabilities; null: not in the list

// The first `most` of each list in one, the likeliest first; what both lists have stands on one row.
// Ids tell tokens apart within one model, labels between two.
export function aligned(a: Candidate[], b: Candidate[], most: number, oneModel: boolean): Row[] {
  const name = (c: Candidate) => (oneModel ? `${c.id}` : c.token)
  const of = (list: Candidate[]) => {
    const found = new Map<string, number>()
    for (const c of list) if (!found.has(name(c))) found.set(name(c), c.p)
    return found
  }
  const [inA, inB] = [of(a), of(b)]
  const labels = new Map([...a.slice(0, most), ...b.slice(0, most)].map((c) => [name(c), c.token]))
  const rows = [...labels].map(([key, token]) => ({ token, a: inA.get(key) ?? null, b: inB.get(key) ?? null }))
  return rows.sort((x, y) => Math.max(y.a ?? 0, y.b ?? 0) - Math.max(x.a ?? 0, x.b ?? 0))
}

// The keys that a row of weights is largest on, the largest first.
export function largest(row: ArrayLike<number>, count: number): number[] {
  const seen = Array.from(row, (w, key) => ({ w: w || 0, key })).filter(({ w }) => w > 0)
  return seen.sort((x, y) => y.w - x.w).slice(0, count).map(({ key }) => key)
}

// A map (rows, columns) in buckets of `step` x `step` tokens, each its largest weight; NaN where all are hidden.
export function pooled(weights: ArrayLike<number>, rows: number, columns: number, step: number): { tall: number; wide: number; values: Float64Array } {
  const tall = Math.ceil(rows / step), wide = Math.ceil(columns / step)
  const values = new Float64Array(tall * wide).fill(NaN)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const at = Math.floor(i / step) * wide + Math.floor(j / step), w = weights[i * columns + j]
      if (!(values[at] >= w)) values[at] = Number.isNaN(w) ? values[at] : w
    }
  }
  return { tall, wide, values }
}
