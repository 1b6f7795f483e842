// The wire format "klieg-trace/1": what the server sends and what an exported page carries.
// Tensors travel as base64 of little-endian numbers and become typed arrays here, batch 0 only.

interface Packed { shape: number[]; dtype: 'float32' | 'uint8'; data: string }

// A model of one stack has calls of one kind; a translator has an encoder, a decoder's own and its look at the source.
export const KINDS = ['encoder', 'self', 'cross'] as const
export type Kind = (typeof KINDS)[number]

interface PackedCall {
  layer: number; kind: Kind; scale: number; softcap: number | null
  q: Packed; k: Packed; v: Packed; lse: Packed; bias: Packed | null; hidden: Packed; reasons: string[]
}

export interface Message {
  format: string
  model: { name: string; layers: number; heads: number; kv_heads: number }
  tokens: string[]        // of a translation those of the target, the start mark first
  translation: Translation | null
  kernel: string
  certificate: Certificate
  calls: PackedCall[]
  next: Next[]
}

export interface Translation { source: string; target: string; tokens: string[] }
export interface Certificate { row_sum_error: number; output_error: number }
export interface Candidate { token: string; p: number }
export interface Next { after: number; candidates: Candidate[] }

export interface Tensor { shape: number[]; data: Float32Array | Uint8Array }

// One call of attention: h query heads on g key/value heads, i queries, j keys, widths d and e.
export interface Call {
  layer: number
  kind: Kind
  scale: number
  softcap: number | null
  q: Tensor               // (h, i, d)
  k: Tensor               // (g, j, d)
  v: Tensor               // (g, j, e)
  lse: Tensor             // (h, i)
  bias: Tensor | null     // broadcastable to (h, i, j)
  hidden: Tensor          // broadcastable to (h, i, j): 0 = may attend, else an index of reasons
  reasons: string[]
}

export interface Trace {
  model: Message['model']
  tokens: string[]
  translation: Translation | null
  kernel: string
  certificate: Certificate
  calls: Call[]
  next: Next[]
}

export function decode(message: Message): Trace {
  if (message.format !== 'klieg-trace/1') throw new Error(`unknown format: ${String(message.format)}`)
  return { ...message, calls: message.calls.map(call) }
}

function call(packed: PackedCall): Call {
  const { q, k, v, lse, bias, hidden, ...rest } = packed
  return { ...rest, q: tensor(q), k: tensor(k), v: tensor(v), lse: tensor(lse), bias: bias && tensor(bias), hidden: tensor(hidden) }
}

function tensor({ shape, dtype, data }: Packed): Tensor {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0))
  const size = shape.reduce((a, b) => a * b, 1)
  if (bytes.length !== size * (dtype === 'uint8' ? 1 : 4)) throw new Error(`a tensor of shape ${shape} came with ${bytes.length} bytes`)
  if (dtype === 'uint8') return { shape, data: bytes }
  const view = new DataView(bytes.buffer)
  return { shape, data: Float32Array.from({ length: size }, (_, n) => view.getFloat32(4 * n, true)) }
}

// The vector at [a, b] of a tensor (., ., width).
export function vector(t: Tensor, a: number, b: number): Float32Array | Uint8Array {
  const [, rows, width] = t.shape
  const start = (a * rows + b) * width
  return t.data.subarray(start, start + width)
}

// The number at [a, b, c] of a tensor whose axes of length 1 stand for any index.
export function at(t: Tensor, a: number, b: number, c: number): number {
  const [x, y, z] = t.shape
  return t.data[((x === 1 ? 0 : a) * y + (y === 1 ? 0 : b)) * z + (z === 1 ? 0 : c)]
}

// The labels of a call's queries and of its keys.
export function axes(trace: Trace, kind: Kind | null): [string[], string[]] {
  const source = trace.translation?.tokens ?? trace.tokens
  return [kind === 'encoder' ? source : trace.tokens, kind === 'encoder' || kind === 'cross' ? source : trace.tokens]
}

// How many heads, queries and keys a call has, and which key/value head a query head reads.
export const heads = (c: Call): number => c.q.shape[0]
export const groups = (c: Call): number => c.k.shape[0]
export const queries = (c: Call): number => c.q.shape[1]
export const keys = (c: Call): number => c.k.shape[1]
export const group = (c: Call, head: number): number => Math.floor((head * groups(c)) / heads(c))
