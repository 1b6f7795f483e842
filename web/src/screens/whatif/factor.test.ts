import { expect, test } from 'vitest'
import { factor, LAST, placeOf, UNTOUCHED } from './factor'

test('the slider goes from 0 by way of 1 to 4, each step a quarter of an octave', () => {
  expect([factor(0), factor(1), factor(UNTOUCHED), factor(LAST)]).toEqual([0, 0.0625, 1, 4])
  for (let n = 2; n <= LAST; n++) expect(factor(n) / factor(n - 1)).toBeCloseTo(2 ** 0.25, 2)
  for (let n = 0; n <= LAST; n++) expect(placeOf(factor(n))).toBe(n)
  expect([placeOf(100), placeOf(0.001)]).toEqual([LAST, 0])
})
