import { expect, test } from 'vitest'
import type { Call, Head, Stream } from '../../wire/trace'
import { at, middle, peaks, strips, terms } from './strips'

const call: Call = {
  index: 0, layer: 0, kind: 'self', heads: 1, kv_heads: 1, queries: 3, keys: 3, scale: 1, softcap: null, kept: true,
  rules: [{ kind: 'causal', size: 0, reason: 'future' }], statistics: {},
}
// Scores of the last row: 0, ln 2, ln 5, so that its weights are 1/8, 2/8 and 5/8.
const head: Head = {
  call, head: 0, d: 1, q: Float32Array.of(1, 1, 1), k: Float32Array.of(0, Math.log(2), Math.log(5)),
  lse: Float32Array.of(0, Math.log(3), Math.log(8)), v: Float32Array.of(8, 0, 0, -16, 4, 1.6), output: Float32Array.of(8, 0, 1, 2, 3, 4),
  unrotated_q: null, unrotated_k: null, bias: null, tables: [null],
}
const tensor = (...rows: number[][]) => ({ shape: [rows.length, rows[0].length], data: Float32Array.from(rows.flat()) })
const stream = (order: 'pre' | 'post'): Stream => ({
  call, rows: [2, 0], course: { why: null, order },
  tensors: {
    start: tensor([1, 2], [3, 4]), input: tensor([0.1, 2], [3, 4]), normed: tensor([5, 6], [7, 8]), attended: tensor([0.2, -2], [1, 1]),
    fed_input: tensor([9, 9], [8, 8]), fed: tensor([1, 1], [1, 1]), output: tensor([2, 1], [5, 6]), joined: tensor([1, 2], [3, 4]),
  },
})

test('the strips are the rows that are shown', () => {
  const found = strips(head, stream('pre'), [2, 0], [1])
  expect([...at(found.mixed!, 0)]).toEqual([3, 4])
  expect([...at(found.mixed!, 1)]).toEqual([8, 0])
  expect([...at(found.v!, 0)]).toEqual([0, -16])
  expect([...at(found.norm!, 1)]).toEqual([7, 8])
  expect(found.k!.rows).toEqual([1])
})

test('without a stream there is what the head has', () => {
  expect(Object.keys(strips(head, null, [0], [0]))).toEqual(['q', 'k', 'v', 'mixed'])
})

test('the stream after attention is added in float32, and read where it is normed after the sum', () => {
  expect([...middle(stream('pre'))!]).toEqual([Math.fround(Math.fround(0.1) + Math.fround(0.2)), 0, 4, 5])
  expect([...middle(stream('post'))!]).toEqual([9, 9, 8, 8])
})

test('between a decoder’s own attention and its look at the source the second is not yet added', () => {
  const both = stream('pre')
  Object.assign(both.tensors, { crossed: tensor([10, 10], [10, 10]), cross_input: tensor([6, 6], [7, 7]) })
  expect([...middle(both, false)!]).toEqual([...middle(stream('pre'))!])
  expect([...middle(both)!].slice(1)).toEqual([10, 14, 15])
  both.course.order = 'post'
  expect([...middle(both, false)!]).toEqual([6, 6, 7, 7])
  expect([...middle(both)!]).toEqual([9, 9, 8, 8])
})

test('a narrow strip shows the largest of each part', () => {
  expect(peaks(Float32Array.of(1, -5, 2, 2, 0, 3), 3)).toEqual([1, 2, 5])
  expect(peaks(Float32Array.of(1, -5, 2), 9)).toEqual([0, 1, 2])
  expect(peaks(Float32Array.of(1, 2, -9, 0, 7), 2)).toEqual([1, 2])
})

test('a number of the output is the sum of weights times values', () => {
  const found = terms(head, 2, 1)
  expect(found.map(({ key }) => key)).toEqual([1, 2, 0])
  expect(found[0].weight).toBeCloseTo(0.25, 6)
  expect(found.reduce((sum, { weight, value }) => sum + weight * value, 0)).toBeCloseTo(-4 + 1, 5)
  expect(terms(head, 0, 0).map(({ key }) => key)).toEqual([0])
})
