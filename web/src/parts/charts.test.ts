import { expect, test } from 'vitest'
import { depth, every, four, limits } from './charts'

const of = (...values: number[]) => ({ series: [{ name: ['a', 'b'] as [string, string], values }], bars: false })

test('from 0, but for lines that are far from it', () => {
  expect(limits(of(0.2, 1))).toEqual([0, 1])
  expect(limits(of(19, 19.75))).toEqual([19, 19.75])
  expect(limits({ ...of(19, 19.75), bars: true })).toEqual([0, 19.75])
  expect(limits(of(-2, 3))).toEqual([-2, 3])
  expect(limits(of(-3, -2))).toEqual([-3, 0])
  expect([limits(of(5, 5)), limits(of(0, 0))]).toEqual([[0, 5], [0, 1]])
})

test('on powers of ten 0 has no place', () => {
  const chart = { ...of(0, 0.01, 1), logarithmic: true }, ends = limits(chart)
  expect(ends).toEqual([0.01, 1])
  expect([1, 0.1, 0.01, 0].map((value) => depth(value, ends, true))).toEqual([0, 0.5, 1, null])
  expect(depth(5, [0, 10])).toBe(0.5)
  expect([limits({ ...of(0, 0), logarithmic: true }), limits({ ...of(5), logarithmic: true })]).toEqual([[0.1, 1], [0.5, 5]])
})

test('four digits', () => {
  expect([0.28079183, 19.4729, 123456, -1.5e-7, 0, 16384].map(four)).toEqual(['0.2808', '19.47', '123,456', '−1.5e−7', '0', '16,384'])
})

test('as many names as there is room for', () => {
  expect([every(['1', '2'], 400), every(Array(40).fill('1,024'), 400)]).toEqual([1, 5])
})
