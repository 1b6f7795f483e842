import { expect, test } from 'vitest'
import { every, four, limits } from './charts'

const of = (...values: number[]) => ({ series: [{ name: ['a', 'b'] as [string, string], values }], bars: false })

test('from 0, but for lines that are far from it', () => {
  expect(limits(of(0.2, 1))).toEqual([0, 1])
  expect(limits(of(19, 19.75))).toEqual([19, 19.75])
  expect(limits({ ...of(19, 19.75), bars: true })).toEqual([0, 19.75])
  expect(limits(of(-2, 3))).toEqual([-2, 3])
  expect(limits(of(-3, -2))).toEqual([-3, 0])
  expect([limits(of(5, 5)), limits(of(0, 0))]).toEqual([[0, 5], [0, 1]])
})

test('four digits', () => {
  expect([0.28079183, 19.4729, 123456, -1.5e-7, 0, 16384].map(four)).toEqual(['0.2808', '19.47', '123,456', '−1.5e−7', '0', '16,384'])
})

test('as many names as there is room for', () => {
  expect([every(['1', '2'], 400), every(Array(40).fill('1,024'), 400)]).toEqual([1, 5])
})
