import { expect, test } from 'vitest'
import { astray, extremes, largest, share, type Share } from './ways'

const way = (shares: number[], correlation: number | null): Share => ({ way: 'raw', corrected: false, shares, correlation })

test('the ways that agree most and least', () => {
  const [a, b, none] = [way([1], 0.5), way([2], -0.2), way([3], null)]
  expect(extremes([none, b, a])).toEqual({ best: a, worst: b })
  expect(extremes([none])).toBeNull()
})

test('a map leads astray where its largest share is not where hiding does most', () => {
  const found = { token: 3, without_first: false, effects: [0.3, 0.1, 0.9], ways: [] }
  expect([astray(found, way([0.2, 0.1, 0.7], null)), astray(found, way([0.6, 0.1, 0.3], null))]).toEqual([false, true])
  expect(astray({ ...found, without_first: true }, way([9, 0.1, 0.3], null))).toBe(false)
  expect(largest([1, 2, 2])).toBe(1)
})

test('shares as the terminal writes them', () => expect([0.1762, 0, 0.0004, 0.0005].map(share)).toEqual(['0.176', '0.000', '4e−4', '0.001']))
