import { expect, test } from 'vitest'
import { ask, query, TEMPERATURES } from './soft'

const table = { names: [], keys: [[1, 2, 0], [1, 2, 0], [0, 0, 2], [1, 4, 0]], values: [18, 20, 22, 19], query: [1, 0, 0] }

test('the table of ages, by hand', () => {
  const found = ask(table, [1, 0, 0], 1), one = Math.exp(1 / Math.sqrt(3)), all = 3 * one + 1
  expect(found.dots).toEqual([1, 1, 0, 1])
  found.weights.forEach((weight, n) => expect(weight).toBeCloseTo((n === 2 ? 1 : one) / all, 12))
  expect(found.answer).toBeCloseTo((57 * one + 22) / all, 12)
  expect([found.hard, found.even]).toEqual([19, 19.75])
})

test('cold is hard, hot is even, and a query twice as strong is a temperature half as high', () => {
  expect(ask(table, [1, 0, 0], 1e-3).answer).toBe(19)
  expect(ask(table, [1, 0, 0], 1e6).answer).toBeCloseTo(19.75, 5)
  expect(ask(table, [2, 0, 0], 1).answer).toBeCloseTo(ask(table, [1, 0, 0], 0.5).answer, 12)
  const [others, best] = [ask(table, [0, 16, 0], 1 / 16).weights.slice(0, 3), ask(table, [0, 16, 0], 1 / 16).weights[3]]
  expect([Math.max(...others) < 1e-100, best]).toEqual([true, 1])
})

test('a query out of an address', () => {
  expect(query('1,0.5,-2', 3)).toEqual([1, 0.5, -2])
  for (const nonsense of ['', '1,2', '1,2,x', '1,2,99', '1,2,Infinity']) expect(query(nonsense, 3)).toBeNull()
  expect(TEMPERATURES[8]).toBe(1)
})
