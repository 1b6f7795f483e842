// For tests of components: an Explorer that looks at a made trace of which every number is known, and asks no server.
import { Explorer } from './state/explorer.svelte'
import type { Source } from './wire/source'
import type { Call, Candidate, Head, Trace } from './wire/trace'

export const HOSTILE = '<img src=x onerror=alert(1)>'
export const TOKENS = ['⟨s⟩', 'one', HOSTILE]

export const CANDIDATES: Candidate[] = [{ token: HOSTILE, id: 7, p: 0.625 }, { token: 'two', id: 3, p: 0.25 }, { token: 'too', id: 9, p: 0.00125 }]

// Two query heads on one key/value head; of width 2 and causal.
export const call = (facts: Partial<Call> = {}): Call => ({
  index: 0, layer: 0, kind: 'self', heads: 2, kv_heads: 1, queries: 3, keys: 3, scale: 0.5, softcap: null, kept: true,
  rules: [{ kind: 'causal', size: 0, reason: 'future' }],
  statistics: { entropy: Float32Array.of(Math.LN2, 0), first: Float32Array.of(0.25, 1), distance: Float32Array.of(1.5, 0) }, ...facts,
})

export const trace = (facts: Partial<Trace> = {}): Trace => ({
  format: 'klieg-wire/1', id: 'made', model: { name: 'tiny', layers: 1, heads: 2, kv_heads: 1 }, text: 'one two', tokens: TOKENS, translation: null,
  kernel: 'dense', certificate: { row_sum_error: 1.25e-7, output_error: 3e-8 }, predicted: 3, vocabulary: 16, statistics: [], calls: [call()],
  languages: [], to: '', ...facts,
})

// q2 · k1 = 2 · 1 + 1 · 2 = 4, scaled 2; q2 · k0 = 0 and q2 · k2 = 0.
export const head = (of: Call = call()): Head => ({
  call: of, head: 0, d: 2, q: Float32Array.of(1, 0, 0, 1, 2, 1), k: Float32Array.of(0, 0, 1, 2, 0, 0),
  lse: Float32Array.of(0, Math.log(1 + Math.E), Math.log(2 + Math.exp(2))), v: null, output: null, unrotated_q: null, unrotated_k: null, bias: null,
  tables: of.rules.map(() => null),
})

export function source(facts: Partial<Trace> = {}, next: Source['next'] = () => Promise.resolve(CANDIDATES)): Source {
  const made = trace(facts)
  return {
    trace: made, next, head: (of) => Promise.resolve(head(of)), close: () => undefined,
    stream: (of, rows) => Promise.resolve({ call: of, rows, course: { why: '' }, tensors: {} }),
    map: () => { throw new Error('this trace is too short for a map') },
  }
}

export function explorer(from: Source = source()): Explorer {
  const found = new Explorer(null)
  Object.assign(found, { source: from, opened: head(from.trace.calls[0]), models: ['tiny', 'other'], model: 'tiny', text: 'one two' })
  return found
}
