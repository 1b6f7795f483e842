// The formula again, in the browser and in double precision, from the float32 q, k and lse of the trace:
//   score = softcap(scale * q.k) + bias     weight = exp(score - lse), 0 where the mask hides the key
import { at, group, keys, queries, vector, type Call } from './wire'

export const STAGES = ['dot', 'scaled', 'masked', 'weight'] as const
export type Stage = (typeof STAGES)[number]

function dot(call: Call, head: number, query: number, key: number): number {
  const q = vector(call.q, head, query), k = vector(call.k, group(call, head), key)
  let sum = 0
  for (let d = 0; d < q.length; d++) sum += q[d] * k[d]
  return sum
}

function scaled(call: Call, head: number, query: number, key: number, product: number): number {
  const s = call.scale * product
  const capped = call.softcap === null ? s : call.softcap * Math.tanh(s / call.softcap)
  return call.bias === null ? capped : capped + at(call.bias, head, query, key)
}

const lse = (call: Call, head: number, query: number) => call.lse.data[head * queries(call) + query]
const hidden = (call: Call, head: number, query: number, key: number) => at(call.hidden, head, query, key)

// One number of a head's map at a stage; -Infinity is a hidden score.
export function number(call: Call, head: number, query: number, key: number, stage: Stage): number {
  if (stage !== 'dot' && stage !== 'scaled' && hidden(call, head, query, key)) return stage === 'weight' ? 0 : -Infinity
  const product = dot(call, head, query, key)
  if (stage === 'dot') return product
  const score = scaled(call, head, query, key, product)
  return stage === 'weight' ? Math.exp(score - lse(call, head, query)) : score
}

// A head's whole map at a stage, row by row; NaN where the mask leaves no number to show.
export function map(call: Call, head: number, stage: Stage): Float64Array {
  const [rows, columns] = [queries(call), keys(call)]
  const seesAll = stage === 'dot' || stage === 'scaled'
  return Float64Array.from({ length: rows * columns }, (_, n) => {
    const [query, key] = [Math.floor(n / columns), n % columns]
    return !seesAll && hidden(call, head, query, key) ? NaN : number(call, head, query, key, stage)
  })
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
export function cell(call: Call, head: number, query: number, key: number): Arithmetic {
  const q = [...vector(call.q, head, query)], k = [...vector(call.k, group(call, head), key)]
  const products = q.map((x, d) => x * k[d])
  const sum = products.reduce((a, b) => a + b, 0)
  const row = Array.from({ length: keys(call) }, (_, j) => number(call, head, query, j, 'masked'))
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity)
  const rowMax = largest === -Infinity ? 0 : largest
  const exponentials = row.map((s) => Math.exp(s - rowMax))
  const ofKeys = exponentials.reduce((a, b) => a + b, 0)
  const rest = Math.exp(lse(call, head, query) - rowMax) - ofKeys         // a learned sink, or the rounding of a float32 lse
  const sink = rest > 1e-4 * ofKeys ? rest : 0
  const code = hidden(call, head, query, key)
  return {
    q, k, products, dot: sum,
    scaled: scaled(call, head, query, key, sum),
    bias: call.bias && at(call.bias, head, query, key),
    reason: code ? call.reasons[code] : null,
    score: row[key], row, exponentials, rowMax, sink, rowSum: ofKeys + sink,
    weight: ofKeys + sink > 0 ? exponentials[key] / (ofKeys + sink) : 0,
    modelWeight: number(call, head, query, key, 'weight'),
  }
}
