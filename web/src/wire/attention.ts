// The formula again, in the browser and in double precision, from the float32 q, k and lse of one head:
//   score = softcap(scale * q.k) + bias     weight = exp(score - lse), 0 where the mask hides the key
import { vector, type Head } from './trace'

export const STAGES = ['dot', 'scaled', 'masked', 'weight'] as const
export type Stage = (typeof STAGES)[number]

export function dot(head: Head, query: number, key: number): number {
  const { q, k, d } = head
  let sum = 0
  for (let n = 0; n < d; n++) sum += q[query * d + n] * k[key * d + n]
  return sum
}

function scaled(head: Head, query: number, key: number, product: number): number {
  const { scale, softcap, keys } = head.call
  const s = scale * product
  const capped = softcap === null ? s : softcap * Math.tanh(s / softcap)
  return head.bias === null ? capped : capped + head.bias[query * keys + key]
}

// Why the mask hides a key from a query; null where it is seen. The rules are those of klieg/rules.py.
export function reason(head: Head, query: number, key: number): string | null {
  const { queries, keys, rules } = head.call
  const slot = keys - queries + query
  for (const [n, { kind, size, reason, global_tokens: shared = 0 }] of rules.entries()) {
    const table = head.tables[n]
    if (slot < shared || key < shared) continue
    if (kind === 'causal' ? key > slot
      : kind === 'window' ? Math.abs(slot - key) >= size
      : kind === 'block' ? Math.floor(slot / size) !== Math.floor(key / size)
      : kind === 'strided' ? Math.abs(slot - key) >= size && (slot - key) % size !== 0
      : kind === 'prefix' ? key > slot && key >= size
      : kind === 'padding' ? !table!.data[key]
      : kind === 'documents' ? table!.data[slot] !== table!.data[key]
      : kind === 'explicit' ? !table!.data[(slot - size) * table!.shape[1] + key]
      : true) return reason
  }
  return null
}

// One number of a head's map at a stage; -Infinity is a hidden score.
export function number(head: Head, query: number, key: number, stage: Stage): number {
  if (stage !== 'dot' && stage !== 'scaled' && reason(head, query, key) !== null) return stage === 'weight' ? 0 : -Infinity
  const product = dot(head, query, key)
  if (stage === 'dot') return product
  const score = scaled(head, query, key, product)
  return stage === 'weight' ? Math.exp(score - head.lse[query]) : score
}

// A head's whole map at a stage, row by row; NaN where the mask leaves no number to show.
export function map(head: Head, stage: Stage): Float64Array {
  const { queries, keys } = head.call
  const seesAll = stage === 'dot' || stage === 'scaled'
  const found = new Float64Array(queries * keys)
  for (let i = 0; i < queries; i++) {
    for (let j = 0; j < keys; j++) {
      found[i * keys + j] = !seesAll && reason(head, i, j) !== null ? NaN : number(head, i, j, stage)
    }
  }
  return found
}

export interface Arithmetic {
  q: number[]; k: number[]; products: number[]
  dot: number
  scaled: number             // scale * dot, then softcap and bias where the model has them
  bias: number | null
  reason: string | null      // why the mask hides this key
  score: number              // what enters the softmax
  row: number[]              // the scores of the whole row
  exponentials: number[]     // exp(score - rowMax)
  rowMax: number
  sink: number               // the part of the row's sum that belongs to no key
  rowSum: number
  weight: number             // the exponential over the sum
  modelWeight: number        // exp(score - lse), with the lse of the kernel that ran
}

// One weight written out; every number follows from those above it.
export function cell(head: Head, query: number, key: number): Arithmetic {
  const { d, call } = head
  const q = [...vector(head.q, query, d)], k = [...vector(head.k, key, d)]
  const products = q.map((x, n) => x * k[n])
  const sum = products.reduce((a, b) => a + b, 0)
  const row = Array.from({ length: call.keys }, (_, j) => number(head, query, j, 'masked'))
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity)
  const rowMax = largest === -Infinity ? 0 : largest
  const exponentials = row.map((s) => Math.exp(s - rowMax))
  const ofKeys = exponentials.reduce((a, b) => a + b, 0)
  const rest = Math.exp(head.lse[query] - rowMax) - ofKeys         // a learned sink, or the rounding of a float32 lse
  const sink = rest > 1e-4 * ofKeys ? rest : 0
  return {
    q, k, products, dot: sum,
    scaled: scaled(head, query, key, sum),
    bias: head.bias && head.bias[query * call.keys + key],
    reason: reason(head, query, key),
    score: row[key], row, exponentials, rowMax, sink, rowSum: ofKeys + sink,
    weight: ofKeys + sink > 0 ? exponentials[key] / (ofKeys + sink) : 0,
    modelWeight: number(head, query, key, 'weight'),
  }
}
