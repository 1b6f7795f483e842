import { expect, test } from 'vitest'
import { find, places, phrase, read, READY, write } from './riddle'

const TEXT = 'The 🐈 saw it; it ran'

test('places are counted in characters as people see them, and found again', () => {
  expect(phrase(TEXT, [4, 5])).toBe('🐈')
  expect(find(TEXT, 'it')).toEqual([10, 12])
  expect(find(TEXT, 'it', 12)).toEqual([14, 16])
  const spans = [[4, 5], [10, 13]] as [number, number][]
  expect(write(spans, TEXT)).toBe('4-5 🐈;10-13 it,')
  expect(read(write(spans, TEXT), TEXT)).toEqual(spans)
})

test('places of another text, and what are none, are no places', () => {
  for (const given of ['', '4-5 dog', '4-5', 'x', '4-5 🐈;10-12 at', '99-101 it']) expect(read(given, TEXT)).toEqual([])
  expect(() => find(TEXT, 'dog')).toThrow('dog is not in')
})

test('every riddle that is ready stands in its text, apart', () => {
  for (const ready of READY) {
    const { pronoun, candidates } = places(ready)
    expect([pronoun, ...candidates].map((span) => phrase(ready.text, span))).toEqual([ready.pronoun, ...ready.candidates])
    const ordered = [pronoun, ...candidates].sort((a, b) => a[0] - b[0])
    ordered.slice(1).forEach((span, n) => expect(span[0]).toBeGreaterThanOrEqual(ordered[n][1]))
  }
})
