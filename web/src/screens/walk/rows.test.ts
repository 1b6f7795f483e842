import { expect, test } from 'vitest'
import { around, gaps, steady } from './rows'

test('a short text is shown whole', () => {
  expect(around(4, 12, [0, 3], 3)).toEqual([0, 1, 2, 3])
})

test('of a long one what must be there, and the neighbours of the query', () => {
  expect(around(100, 6, [0, 20, 50], 50)).toEqual([0, 20, 48, 49, 50, 51])
  expect(around(100, 5, [0, 99], 99)).toEqual([0, 96, 97, 98, 99])
  expect(around(100, 5, [0, 0, 0], 0)).toEqual([0, 1, 2, 3, 4])
})

test('it stays as long as it can', () => {
  const before = [0, 20, 48, 49, 50, 51]
  expect(steady(before, 100, 6, [0, 48, 49], 49)).toBe(before)
  expect(steady(before, 100, 6, [0, 20, 60], 60)).toEqual([0, 20, 58, 59, 60, 61])
  expect(steady(before, 30, 6, [0, 20, 20], 20)).toEqual([0, 18, 19, 20, 21, 22])
  expect(steady(before, 100, 5, [0, 20, 48], 48)).toEqual([0, 20, 47, 48, 49])
})

test('what is left out is counted', () => {
  expect([...gaps([0, 20, 48, 49])]).toEqual([[1, 19], [2, 27]])
  expect([...gaps([3, 4])]).toEqual([[0, 3]])
})
