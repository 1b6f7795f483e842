import { expect, test } from 'vitest'
import { bound, percentBound } from './numbers'

// What stands on the page, read back as a number.
const read = (text: string) => Number(text.replace('−', '-').replace(' %', ''))

test('a bound is never under what it bounds, and less than a unit of its last digit over it', () => {
  expect([0, 1.2e-7, 1.25e-7, 9.91e-8, 9.99e-8].map(bound)).toEqual(['0', '1.2e−7', '1.3e−7', '1.0e−7', '1.0e−7'])
  expect([0, 0.5, 0.123412, 0.0000012341, 0.0000000123].map(percentBound)).toEqual(['0 %', '50.00 %', '12.35 %', '0.0002 %', '1.3e−6 %'])
  for (let n = 1; n < 500; n++) {
    const x = (Math.sin(n) + 1.1) * 10 ** -(n % 12), unit = 10 ** (Math.floor(Math.log10(x)) - 1)
    expect(read(bound(x))).toBeGreaterThanOrEqual(x)
    expect(read(bound(x))).toBeLessThan(x + 1.01 * unit)
    const p = x / 3, step = p >= 0.001 ? 0.01 : p >= 1e-6 ? 1e-4 : 100 * p
    expect(read(percentBound(p))).toBeGreaterThanOrEqual(100 * p)
    expect(read(percentBound(p))).toBeLessThan(100 * p + 1.01 * step)
  }
})
