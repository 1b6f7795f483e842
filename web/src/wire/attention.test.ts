import { expect, test } from 'vitest'
import { cell, map, reason } from './attention'
import { unpack, type Message, type Tensor } from './pack'
import { axes, decode, headOf, type Head, type Trace } from './trace'

type Outline = Parameters<typeof decode>[0]['body']
const numbers = (shape: number[], found: number[]): Tensor => ({ shape, data: Float32Array.from(found) })
const CAUSAL = [{ kind: 'causal', size: 0, reason: 'future' }]

// Two query heads on one key/value head, two tokens, width 2, causal. Head 0: q1.k0 = 2, q1.k1 = 4.
function message(facts: object = {}, tensors: Record<string, Tensor> = {}, body: object = {}): Message<Outline> {
  const lse = [2, Math.log(Math.exp(1) + Math.exp(2)), 0, Math.LN2]
  const call = { layer: 0, kind: 'self', heads: 2, kv_heads: 1, queries: 2, keys: 2, scale: 0.5, softcap: null, kept: true, rules: CAUSAL, ...facts }
  return {
    body: {
      format: 'klieg-wire/1', model: { name: 'tiny', layers: 1, heads: 2, kv_heads: 1 }, text: 'a b', tokens: ['a', 'b'], translation: null,
      kernel: 'dense', certificate: { row_sum_error: 0, output_error: 0 }, predicted: 2, statistics: [{ name: 'entropy', unit: 'nats' }],
      calls: [call], ...body,
    } as Outline,
    tensors: {
      'statistics.0': numbers([1, 2], [0.25, 0.5]),
      'calls.0.q': numbers([2, 2, 2], [2, 1, 1, 1, 0, 0, 0, 0]), 'calls.0.k': numbers([1, 2, 2], [1, 1, 3, 1]),
      'calls.0.v': numbers([1, 2, 2], [1, 0, 0, 1]), 'calls.0.lse': numbers([2, 2], [1.5, lse[1], 0, lse[3]]), ...tensors,
    },
  }
}

function head(which: number, found: Message<Outline> = message()): Head {
  return headOf(decode(found).calls[0], which, found.tensors, 'calls.0.')
}

const close = (found: ArrayLike<number>, wanted: number[]) =>
  wanted.forEach((x, n) => (Number.isNaN(x) ? expect(found[n]).toBeNaN() : expect(found[n]).toBeCloseTo(x, 6)))

test('every stage of a head', () => {
  close(map(head(0), 'dot'), [3, 7, 2, 4])
  close(map(head(0), 'scaled'), [1.5, 3.5, 1, 2])
  close(map(head(0), 'masked'), [1.5, NaN, 1, 2])
  close(map(head(0), 'weight'), [1, NaN, 1 / (1 + Math.E), Math.E / (1 + Math.E)])
  close(map(head(1), 'weight'), [1, NaN, 0.5, 0.5])
})

test('one weight written out', () => {
  const a = cell(head(0), 1, 1)
  expect(a.products).toEqual([3, 1])
  expect([a.dot, a.scaled, a.score, a.rowMax, a.reason, a.sink]).toEqual([4, 2, 2, 2, null, 0])
  close([a.weight, a.modelWeight, a.rowSum], [Math.E / (1 + Math.E), Math.E / (1 + Math.E), 1 + 1 / Math.E])
})

test('a hidden key has a reason and no weight', () => {
  const a = cell(head(0), 0, 1)
  expect([a.reason, a.score, a.weight, a.modelWeight]).toEqual(['future', -Infinity, 0, 0])
})

test('sparse rules hide by distance, block and stride, and global tokens see all', () => {
  const seen = (rule: object, slot: number, key: number) =>
    reason({ call: { queries: 9, keys: 9, rules: [{ size: 3, reason: 'no', ...rule }] }, tables: [null] } as unknown as Head, slot, key) === null
  const row = (rule: object, slot: number) => Array.from({ length: 9 }, (_, key) => (seen(rule, slot, key) ? 'x' : '.')).join('')
  expect(row({ kind: 'window' }, 4)).toBe('..xxxxx..')
  expect(row({ kind: 'block' }, 4)).toBe('...xxx...')
  expect(row({ kind: 'strided' }, 7)).toBe('.x..xxxxx')
  expect(row({ kind: 'block', global_tokens: 2 }, 8)).toBe('xx....xxx')
  expect(row({ kind: 'block', global_tokens: 2 }, 1)).toBe('xxxxxxxxx')
})

test('softcap before bias, and a sink is the rest of the row', () => {
  const biased = message({ softcap: 2 }, { 'calls.0.bias': numbers([1, 2, 2], [0, 0, 0.25, 0.25]), 'calls.0.lse': numbers([2, 2], [9, Math.log(16), 0, 0]) })
  const a = cell(head(0, biased), 1, 1)
  close([a.scaled, a.sink * Math.exp(a.rowMax), a.weight], [
    2 * Math.tanh(1) + 0.25, 16 - Math.exp(2 * Math.tanh(0.5) + 0.25) - Math.exp(2 * Math.tanh(1) + 0.25), Math.exp(2 * Math.tanh(1) + 0.25) / 16,
  ])
})

test('every rule of a mask hides what it says', () => {
  const table = (shape: number[], data: number[]): Tensor => ({ shape, data: Uint8Array.from(data) })
  const seen = (rule: object, found: Record<string, Tensor> = {}, facts: object = {}) => {
    const given = message({ rules: [{ size: 0, reason: 'why', ...rule }], ...facts }, found)
    return [...map(head(1, given), 'weight')].map((w) => (Number.isNaN(w) ? 0 : 1))
  }
  expect(seen({ kind: 'causal' })).toEqual([1, 0, 1, 1])
  expect(seen({ kind: 'window', size: 1 })).toEqual([1, 0, 0, 1])
  expect(seen({ kind: 'prefix', size: 2 })).toEqual([1, 1, 1, 1])
  expect(seen({ kind: 'padding' }, { 'calls.0.table.0': table([1, 2], [0, 1]) })).toEqual([0, 1, 0, 1])
  expect(seen({ kind: 'documents' }, { 'calls.0.table.0': table([1, 2], [4, 7]) })).toEqual([1, 0, 0, 1])
  expect(seen({ kind: 'explicit' }, { 'calls.0.table.0': table([2, 2, 2], [1, 1, 1, 1, 0, 1, 1, 0]) })).toEqual([0, 1, 1, 0])
  // one query over two keys stands at the second of them
  expect(seen({ kind: 'causal' }, { 'calls.0.q': numbers([2, 1, 2], [0, 0, 0, 0]), 'calls.0.lse': numbers([2, 1], [0, 0]) }, { queries: 1 })).toEqual([1, 1])
})

test('two texts: each axis has its own labels', () => {
  const translation = { source: 'v w x y', target: 'b', tokens: ['v', 'w', 'x', 'y', '⟨/s⟩'] }
  const trace: Trace = decode(message({ kind: 'cross', rules: [] }, {}, { translation }))
  expect(axes(trace, 'cross')).toEqual([['a', 'b'], translation.tokens])
  expect(axes(trace, 'encoder')).toEqual([translation.tokens, translation.tokens])
  expect(axes(trace, 'self')).toEqual([['a', 'b'], ['a', 'b']])
  expect(axes(decode(message()), null)).toEqual([['a', 'b'], ['a', 'b']])
  expect([...decode(message()).calls[0].statistics.entropy]).toEqual([0.25, 0.5])
})

// As safetensors lay it out: the length of the header, the header, the numbers.
function bytes(header: object, data: number[] = [1, 2]): ArrayBuffer {
  const said = new TextEncoder().encode(JSON.stringify(header).padEnd(200))
  const found = new Uint8Array(8 + said.length + 4 * data.length)
  new DataView(found.buffer).setBigUint64(0, BigInt(said.length), true)
  found.set(said, 8)
  found.set(new Uint8Array(Float32Array.from(data).buffer), 8 + said.length)
  return found.buffer
}

test('a message is unpacked, and what cannot be right is refused', () => {
  const metadata = { klieg: '{"a":"\\u5c0f"}' }, x = { dtype: 'F32', shape: [2], data_offsets: [0, 8] }
  const found = unpack<{ a: string }>(bytes({ __metadata__: metadata, x }))
  expect([found.body.a, ...found.tensors.x.data]).toEqual(['小', 1, 2])
  expect(() => unpack(bytes({ x }))).toThrow('no message')
  expect(() => unpack(bytes({ __metadata__: metadata, x: { ...x, shape: [3] } }))).toThrow('8 bytes')
  expect(() => unpack(bytes({ __metadata__: metadata, x: { ...x, data_offsets: [8, 16] } }))).toThrow('8 bytes')
  expect(() => unpack(new ArrayBuffer(4))).toThrow('cut short')
  expect(() => decode(message({}, {}, { format: 'klieg-wire/0' }))).toThrow('klieg-wire/0')
  const { 'calls.0.q': q, ...rest } = message().tensors
  expect(() => headOf(decode(message()).calls[0], 0, rest, 'calls.0.')).toThrow('not in it')
  expect(q.shape).toEqual([2, 2, 2])
})
