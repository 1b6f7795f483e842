// How alike two tokens are, layer by layer: the numbers of klieg/analysis/similarity.py. The server is asked for them; a page
// without one computes them from the streams that it carries.
import { json, type Source } from '../../wire/source'
import type { Call } from '../../wire/trace'

export interface Step {
  name: 'embedded' | 'start' | 'layer'
  layer: number | null
  cosine: number
  mean: number | null          // of all pairs of tokens
  lengths: [number, number]
}
export interface Comparison {
  steps: Step[]
  near: [number[], number[]]   // after one layer: each token of A beside B's chosen one, each of B beside A's
}
export interface Chosen { source: Source; calls: Call[]; call: Call; token: number }

// The file has no streams, and says why: '' where it was only too long to carry them.
export class Without extends Error {}

export async function compared(a: Chosen, b: Chosen, signal?: AbortSignal): Promise<Comparison> {
  const ids = [a.source.trace.id, b.source.trace.id]
  if (!ids[0] || !ids[1]) return await within(a, b.token)
  const asked = new URLSearchParams({
    a: ids[0], b: ids[1], token_a: `${a.token}`, token_b: `${b.token}`, layer: `${a.call.layer}`, kind: a.call.kind,
  })
  return await json<Comparison>(`api/comparisons?${asked}`, { signal })
}

// Two tokens of the one text that a file carries.
async function within({ source, calls, call, token }: Chosen, other: number): Promise<Comparison> {
  const every = Array.from({ length: call.queries }, (_, n) => n)
  const steps: Step[] = []
  let near: [number[], number[]] = [[], []]
  const add = (name: Step['name'], layer: number | null, rows: Float32Array[]) => {
    const pairs = rows.length * (rows.length - 1), own = [rows[token], rows[other]]
    const mean = pairs ? ofPairs(rows) / pairs : null
    steps.push({ name, layer, cosine: cosine(own[0], own[1]), mean, lengths: [long(own[0]), long(own[1])] })
  }
  for (const each of calls) {
    const { course, tensors } = await source.stream(each, every)
    if (!tensors.output) throw new Without(course.why ?? '')
    const rows = (name: string) => every.map((n) => (tensors[name].data as Float32Array).subarray(n * tensors[name].shape[1], (n + 1) * tensors[name].shape[1]))
    if (!steps.length) {
      add('embedded', null, rows('embedded'))
      if (tensors.embedded.data.some((x, n) => x !== tensors.start.data[n])) add('start', null, rows('start'))
    }
    const found = rows('output')
    add('layer', each.layer, found)
    if (each === call) near = [found.map((x) => cosine(x, found[other])), found.map((x) => cosine(x, found[token]))]
  }
  return { steps, near }
}

// The cosines of every row with every other, in one sum: that of all directions with itself, without each with itself.
function ofPairs(rows: Float32Array[]): number {
  const sum = new Float64Array(rows[0].length)
  let own = 0
  for (const row of rows) {
    const length = long(row)
    if (!length) continue
    own++
    for (let n = 0; n < row.length; n++) sum[n] += row[n] / length
  }
  return dot(sum, sum) - own
}

const dot = (x: ArrayLike<number>, y: ArrayLike<number>): number => {
  let sum = 0
  for (let n = 0; n < x.length; n++) sum += x[n] * y[n]
  return sum
}
const long = (x: ArrayLike<number>): number => Math.sqrt(dot(x, x))

// 0 where one of the two is all zeros.
export function cosine(x: ArrayLike<number>, y: ArrayLike<number>): number {
  const lengths = long(x) * long(y)
  return lengths ? Math.min(1, Math.max(-1, dot(x, y) / lengths)) : 0
}
