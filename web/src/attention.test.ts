import { expect, test } from 'vitest'
import { cell, map } from './attention'
import { summary } from './statistics'
import { axes, decode, type Message } from './wire'

function pack(shape: number[], numbers: number[], dtype: 'float32' | 'uint8' = 'float32') {
  const bytes = dtype === 'uint8' ? Uint8Array.from(numbers) : new Uint8Array(Float32Array.from(numbers).buffer)
  return { shape, dtype, data: btoa(String.fromCharCode(...bytes)) }
}

// Two query heads on one key/value head, two tokens, width 2, causal. Head 0: q1.k0 = 2, q1.k1 = 4.
function message(extra: object = {}): Message {
  const lse = [2, Math.log(Math.exp(1) + Math.exp(2)), 0, Math.LN2]
  return {
    format: 'klieg-trace/1', model: { name: 'tiny', layers: 1, heads: 2, kv_heads: 1 }, tokens: ['a', 'b'], translation: null, kernel: 'dense',
    certificate: { row_sum_error: 0, output_error: 0 }, next: [],
    calls: [{
      layer: 0, kind: 'self', scale: 0.5, softcap: null, bias: null, reasons: ['', 'future'],
      q: pack([2, 2, 2], [2, 1, 1, 1, 0, 0, 0, 0]), k: pack([1, 2, 2], [1, 1, 3, 1]), v: pack([1, 2, 2], [1, 0, 0, 1]),
      lse: pack([2, 2], [1.5, lse[1], 0, lse[3]]), hidden: pack([1, 2, 2], [0, 1, 0, 0], 'uint8'), ...extra,
    }],
  } as Message
}

const close = (found: ArrayLike<number>, wanted: number[]) =>
  wanted.forEach((x, n) => (Number.isNaN(x) ? expect(found[n]).toBeNaN() : expect(found[n]).toBeCloseTo(x, 6)))

test('every stage of a head', () => {
  const call = decode(message()).calls[0]
  close(map(call, 0, 'dot'), [3, 7, 2, 4])
  close(map(call, 0, 'scaled'), [1.5, 3.5, 1, 2])
  close(map(call, 0, 'masked'), [1.5, NaN, 1, 2])
  close(map(call, 0, 'weight'), [1, NaN, 1 / (1 + Math.E), Math.E / (1 + Math.E)])
  close(map(call, 1, 'weight'), [1, NaN, 0.5, 0.5])
})

test('one weight written out', () => {
  const a = cell(decode(message()).calls[0], 0, 1, 1)
  expect(a.products).toEqual([3, 1])
  expect([a.dot, a.scaled, a.score, a.rowMax, a.reason, a.sink]).toEqual([4, 2, 2, 2, null, 0])
  close([a.weight, a.modelWeight, a.rowSum], [Math.E / (1 + Math.E), Math.E / (1 + Math.E), 1 + 1 / Math.E])
})

test('a hidden key has a reason and no weight', () => {
  const a = cell(decode(message()).calls[0], 0, 0, 1)
  expect([a.reason, a.score, a.weight, a.modelWeight]).toEqual(['future', -Infinity, 0, 0])
})

test('softcap before bias, and a sink is the rest of the row', () => {
  const biased = { softcap: 2, bias: pack([1, 2, 2], [0, 0, 0.25, 0.25]), lse: pack([2, 2], [9, Math.log(16), 0, 0]) }
  const a = cell(decode(message(biased)).calls[0], 0, 1, 1)
  close([a.scaled, a.sink * Math.exp(a.rowMax), a.weight], [
    2 * Math.tanh(1) + 0.25, 16 - Math.exp(2 * Math.tanh(0.5) + 0.25) - Math.exp(2 * Math.tanh(1) + 0.25), Math.exp(2 * Math.tanh(1) + 0.25) / 16,
  ])
})

test('a head in one number leaves out the row without a choice', () => {
  close(Object.values(summary(decode(message()).calls[0], 1)), [1, 0.5, 0.5, 0.5])
})

test('two texts: five keys for two queries, nothing hidden, and each axis with its own labels', () => {
  const q = [1, 0, 0, 1], k = [0, 0, 1, 0, 2, 0, 0, 1, 1, 1]
  const sums = [[0, 1, 2, 0, 1], [0, 0, 0, 1, 1]].map((row) => Math.log(row.reduce((a, s) => a + Math.exp(s / 2), 0)))
  const cross = {
    kind: 'cross', q: pack([1, 2, 2], q), k: pack([1, 5, 2], k), v: pack([1, 5, 1], [1, 2, 3, 4, 5]), lse: pack([1, 2], sums),
    hidden: pack([1, 2, 5], new Array(10).fill(0), 'uint8'), reasons: [''],
  }
  const translation = { source: 'v w x y', target: 'b', tokens: ['v', 'w', 'x', 'y', '⟨/s⟩'] }
  const trace = decode({ ...message(cross), translation })
  const weights = map(trace.calls[0], 0, 'weight')
  expect(weights.length).toBe(10)
  close(weights.slice(0, 5), [0, 1, 2, 0, 1].map((s) => Math.exp(s / 2 - sums[0])))
  expect(axes(trace, 'cross')).toEqual([['a', 'b'], translation.tokens])
  expect(axes(trace, 'encoder')).toEqual([translation.tokens, translation.tokens])
  expect(axes(trace, 'self')).toEqual([['a', 'b'], ['a', 'b']])
  expect(axes(decode(message()), null)).toEqual([['a', 'b'], ['a', 'b']])
  const certain = (Math.exp(1 - sums[0]) + Math.exp(0.5 - sums[1])) / 2   // both rows have a choice
  close([summary(trace.calls[0], 0).certain], [certain])
})

test('what cannot be right is refused', () => {
  expect(() => decode({ ...message(), format: 'klieg-trace/2' })).toThrow('klieg-trace/2')
  expect(() => decode(message({ lse: pack([2, 2], [1, 2, 3]) }))).toThrow('12 bytes')
})
