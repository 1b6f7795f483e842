// The vectors beside the matrices, as strips of colour: which numbers they are, and what each follows from.
import { cell } from '../../wire/attention'
import { pick, vector, type Head, type Stream } from '../../wire/trace'
import type { Hue } from '../../parts/palette'

export const NAMES = ['embed', 'norm', 'q', 'k', 'v', 'mixed', 'joined', 'projected', 'middle', 'fed', 'output'] as const
export type Name = (typeof NAMES)[number]

export interface Strip {
  name: Name
  hue: Hue
  rows: number[]        // its tokens: queries, or of k and v keys
  width: number
  data: Float32Array    // (rows, width)
}

// One number: its place among the rows and in its vector; of how many it is the largest; and where on the page it stands.
export interface Spot { name: Name; row: number; index: number; of: number; x: number; y: number }

const HUES: Record<Name, Hue> = {
  embed: 'ink', norm: 'ink', q: 'q', k: 'k', v: 'v', mixed: 'o', joined: 'o', projected: 'o', middle: 'ink', fed: 'ink', output: 'ink',
}

// All that a trace has around one head, for some queries and keys.
export function strips(head: Head, stream: Stream | null, queries: number[], keys: number[]): Partial<Record<Name, Strip>> {
  const found: Partial<Record<Name, Strip>> = {}
  const put = (name: Name, rows: number[], width: number, data: Float32Array | null | undefined) => {
    if (data) found[name] = { name, hue: HUES[name], rows, width, data }
  }
  const part = (name: Name, rows: number[], numbers: Float32Array | null, count: number) => {
    if (numbers) put(name, rows, numbers.length / count, pick({ shape: [count, numbers.length / count], data: numbers }, rows).data as Float32Array)
  }
  const { call } = head
  part('q', queries, head.q, call.queries)
  part('k', keys, head.k, call.keys)
  part('v', keys, head.v, call.keys)
  part('mixed', queries, head.output, call.queries)
  if (!stream) return found
  const crosses = call.kind === 'cross'
  const around = {
    embed: 'start', norm: crosses ? 'cross_input' : 'normed', joined: 'joined', projected: crosses ? 'crossed' : 'attended', fed: 'fed', output: 'output',
  } as const
  for (const [name, field] of Object.entries(around)) {
    const tensor = stream.tensors[field]
    if (tensor) put(name as Name, queries, tensor.shape[1], tensor.data as Float32Array)
  }
  put('middle', queries, found.output?.width ?? 0, middle(stream, false))
  return found
}

// The stream after the call's attention, and after a decoder's look at its source too: what the feed-forward's row is added
// to. It is added as the model adds, in float32.
export function middle(stream: Stream, all = true): Float32Array | null {
  const { input, attended, crossed, cross_input, fed_input: read } = stream.tensors
  const own = !crossed || (!all && stream.call.kind !== 'cross')
  if (!input || !attended) return null
  if (stream.course.order === 'post') return (crossed && own ? cross_input : read).data as Float32Array
  return Float32Array.from(input.data, (x, n) => Math.fround(Math.fround(x + attended.data[n]) + (own ? 0 : crossed.data[n])))
}

// The place of the number that is furthest from 0 in each of `count` equal parts of a vector.
export function peaks(numbers: Float32Array, count: number): number[] {
  return Array.from({ length: Math.min(count, numbers.length) }, (_, n, parts = Math.min(count, numbers.length)) => {
    const from = Math.floor((n * numbers.length) / parts), to = Math.floor(((n + 1) * numbers.length) / parts)
    let best = from
    for (let at = from + 1; at < to; at++) if (Math.abs(numbers[at]) > Math.abs(numbers[best])) best = at
    return best
  })
}

export const at = (strip: Strip, row: number): Float32Array => vector(strip.data, row, strip.width)
export const largest = (numbers: Float32Array): number => numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
export const long = (numbers: Float32Array): number => Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0))

export interface Term { key: number; weight: number; value: number }

// What one number of a head's output is the sum of: each key's weight times its value, the largest first.
export function terms(head: Head, query: number, index: number): Term[] {
  const { keys } = head.call, v = head.v!, width = v.length / keys
  const { exponentials, rowSum } = cell(head, query, 0)
  return exponentials.map((e, key) => ({ key, weight: rowSum ? e / rowSum : 0, value: v[key * width + index] }))
    .filter(({ weight }) => weight > 0)
    .sort((a, b) => Math.abs(b.weight * b.value) - Math.abs(a.weight * a.value))
}
