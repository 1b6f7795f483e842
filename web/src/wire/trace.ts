// A trace as the page knows it: its outline at once, and single heads as they are looked at.
import { row, type Message, type Tensor } from './pack'

// A model of one stack has calls of one kind; a translator has an encoder, a decoder's own and its look at the source.
export const KINDS = ['encoder', 'self', 'cross'] as const
export type Kind = (typeof KINDS)[number]

export interface Translation { source: string; target: string; tokens: string[] }
export interface Certificate { row_sum_error: number; output_error: number }
export interface Candidate { token: string; id: number; p: number }
export interface Next { after: number; candidates: Candidate[] }
export interface Rule { kind: string; size: number; reason: string; global_tokens?: number }

// One call of attention: `heads` query heads on `kv_heads` key/value heads.
export interface Call {
  index: number            // its place in the trace
  layer: number
  kind: Kind
  heads: number
  kv_heads: number
  queries: number
  keys: number
  scale: number
  softcap: number | null
  kept: boolean            // whether q and k are there, to compute a map from
  rules: Rule[]            // the mask: what each hides, and why
  statistics: Record<string, Float32Array>   // by name, a number for each head
}

interface Outline {
  format: string
  id?: string
  model: { name: string; layers: number; heads: number; kv_heads: number }
  text: string
  tokens: string[]         // of a translator those of the target, the start mark first
  translation: Translation | null
  kernel: string
  certificate: Certificate
  predicted: number        // after how many of the last tokens the next one is known
  vocabulary: number
  statistics: { name: string; unit: string }[]
  calls: Omit<Call, 'index' | 'statistics'>[]
  ids?: number[]           // in a file
  next?: Next[]            // in a file
  streams?: Record<string, Course & { tensors: Record<string, string> }>   // in a file, by "kind.layer"
  languages?: string[]     // that a translator offers, and the one that was taken
  to?: string | null
}

export interface Trace extends Omit<Outline, 'id' | 'calls' | 'languages' | 'to'> {
  id: string
  calls: Call[]
  languages: string[]
  to: string
}

// How the stream passes a layer: where its norms stand; `why` where it is not known.
export interface Course { why: string | null; order?: 'pre' | 'post' | 'parallel'; embedding_norm?: boolean; final_norm?: boolean }

// What happens around one call of attention, for a few tokens: tensors (rows, width) by the names of klieg/blocks.py.
export interface Stream { call: Call; rows: number[]; course: Course; tensors: Record<string, Tensor> }

// All that one head's map is computed from: i queries, j keys, widths d and e.
export interface Head {
  call: Call
  head: number
  d: number
  q: Float32Array                        // (i, d)
  k: Float32Array                        // (j, d)
  lse: Float32Array                      // (i)
  v: Float32Array | null                 // (j, e)
  output: Float32Array | null            // (i, e): what the head gave
  unrotated_q: Float32Array | null       // before rotary positions turned them
  unrotated_k: Float32Array | null
  bias: Float32Array | null              // (i, j)
  tables: (Tensor | null)[]              // of each rule
}

export function decode({ body, tensors }: Message<Outline>): Trace {
  if (body.format !== 'klieg-wire/1') throw new Error(`unknown format: ${String(body.format)}`)
  const calls = body.calls.map((call, index) => {
    const found = tensors[`statistics.${index}`]
    const statistics = Object.fromEntries(body.statistics.map(({ name }, n) => [name, row(found, n).data as Float32Array]))
    return { ...call, index, statistics }
  })
  return { ...body, id: body.id ?? '', calls, languages: body.languages ?? [], to: body.to ?? '' }
}

// One head out of the tensors of a message; `prefix` where they are those of a whole call, with the heads as first axis.
export function headOf(call: Call, head: number, tensors: Record<string, Tensor>, prefix = ''): Head {
  const of = (name: string): Tensor | null => {
    const found = tensors[prefix + name]
    if (!found || !prefix) return found ?? null
    const shared = name === 'k' || name === 'v' || name === 'unrotated_k'
    return row(found, (shared ? group(call, head) : head) % found.shape[0])
  }
  const numbers = (name: string) => (of(name)?.data ?? null) as Float32Array | null
  const q = of('q')
  if (!q || !of('k') || !of('lse')) throw new Error(`the head ${head} of layer ${call.layer} is not in it`)
  return {
    call, head, d: q.shape[1], q: q.data as Float32Array, k: numbers('k')!, lse: numbers('lse')!, v: numbers('v'),
    output: numbers('output'), unrotated_q: numbers('unrotated_q'), unrotated_k: numbers('unrotated_k'), bias: numbers('bias'),
    tables: call.rules.map((_, n) => of(`table.${n}`)),
  }
}

// Some rows of a tensor (n, width), in the order that is asked for.
export function pick({ shape, data }: Tensor, rows: number[]): Tensor {
  const width = shape[1], found = new Float32Array(rows.length * width)
  rows.forEach((row, n) => found.set(vector(data as Float32Array, row, width), n * width))
  return { shape: [rows.length, width], data: found }
}

// The outputs (heads, i, e) of a call side by side: (i, heads * e).
export function join({ shape: [heads, queries, width], data }: Tensor): Tensor {
  const found = new Float32Array(data.length)
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < queries; i++) found.set(vector(data as Float32Array, h * queries + i, width), (i * heads + h) * width)
  }
  return { shape: [queries, heads * width], data: found }
}

// The vector of token n in a matrix of rows of `width` numbers.
export const vector = (numbers: Float32Array, n: number, width: number): Float32Array => numbers.subarray(n * width, (n + 1) * width)

// The labels of a call's queries and of its keys.
export function axes(trace: Trace, kind: Kind | null): [string[], string[]] {
  const source = trace.translation?.tokens ?? trace.tokens
  return [kind === 'encoder' ? source : trace.tokens, kind === 'encoder' || kind === 'cross' ? source : trace.tokens]
}

// Which key/value head a query head reads.
export const group = (call: Call, head: number): number => Math.floor((head * call.kv_heads) / call.heads)
