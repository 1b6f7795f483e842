import { expect, test } from 'vitest'
import { beyond, sorted, span, type Line } from './lines'

const line = (layer: number, head: number, mean: number, low: number | null, high: number | null, chance = 0.1): Line =>
  ({ layer, kind: 'self', head, mean, low, high, chance, texts: 2 })
const LINES = [line(1, 0, 0.5, 0.4, 0.6), line(0, 1, 0.9, 0.8, 1), line(0, 0, 0.05, null, null)]
const heads = (lines: Line[]) => lines.map(({ layer, head }) => `${layer}.${head}`)

test('sorted by a column, and the other way round', () => {
  expect(heads(sorted(LINES, 'mean', false))).toEqual(['0.1', '1.0', '0.0'])
  expect(heads(sorted(LINES, 'mean', true))).toEqual(['0.0', '1.0', '0.1'])
  expect(heads(sorted(LINES, 'head', false))).toEqual(['0.0', '0.1', '1.0'])
  expect(heads(sorted(LINES, 'texts', false))).toEqual(['0.0', '0.1', '1.0'])
})

test('beyond chance on either side; nothing is said of a single text', () => {
  expect(LINES.map(beyond)).toEqual([true, true, false])
  expect([beyond(line(0, 0, 0.1, 0.05, 0.2)), beyond(line(0, 0, 0.02, 0.01, 0.03))]).toEqual([false, true])
})

test('an axis holds intervals and chance', () => expect(span(LINES)).toEqual([0.05, 1]))
