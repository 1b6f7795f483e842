import { expect, test } from 'vitest'
import type { Tile } from '../../wire/tiles'
import { bucketOf, floor, largest, ramp, shade, step } from './shade'

const tile: Tile = {
  max: Float32Array.of(0.5, 0.25, 0, 0.001), mean: Float32Array.of(0.1, 0.2, 0, 1e-5), top: Float32Array.of(0.5, 0.001),
  rows: Int32Array.of(0, 4, 6), keys: Int32Array.of(10, 14, 18),
}

test('the step of the ramp follows its scale', () => {
  expect(step(0.25, 1, 'linear', { low: 0, high: 0.5 })).toBe(Math.round(1023 / 2))
  expect(step(0.25, 0.25, 'row', { low: 0, high: 1 })).toBe(1023)
  expect(step(1, 1, 'log', { low: 1e-4, high: 1 })).toBe(1023)
  expect(step(1e-2, 1, 'log', { low: 1e-4, high: 1 })).toBe(Math.round(1023 / 2))
  expect(step(1e-9, 1, 'log', { low: 1e-4, high: 1 })).toBe(0)
})

test('a bucket is one pixel of its own colour, and clear where there is no weight', () => {
  const colours = ramp('light'), out = new Uint32Array(4)
  shade(tile, 'max', 'row', { low: 0, high: 1 }, colours, out)
  expect([...out]).toEqual([colours.pixels[1023], colours.pixels[Math.round(1023 / 2)], 0, colours.pixels[1023]])
  shade(tile, 'mean', 'linear', { low: 0, high: 0.2 }, colours, out)
  expect(out[1]).toBe(colours.pixels[1023])
  expect(colours.pixels[0]).toBe(0xfff6fbfd)   // the paper end of the ramp, #fdfbf6, as a little-endian machine has it
})

test('buckets are found by their tokens', () => {
  expect([9, 10, 13, 14, 17, 18].map((token) => bucketOf(tile.keys, token))).toEqual([-1, 0, 0, 1, 1, -1])
  expect(largest(tile, 'max', [0, 6], [0, 100])).toBe(0.5)
  expect(largest(tile, 'max', [0, 4], [14, 100])).toBe(0.25)
  expect(largest(tile, 'max', [4, 6], [10, 11])).toBe(0)
  expect(largest(tile, 'max', [50, 60], [10, 11])).toBe(0)
})

test('the logarithmic scale begins below an even share of the row', () => {
  expect(floor(131072)).toBeCloseTo(1e-7, 12)
  expect(floor(512)).toBeCloseTo(1e-4, 9)
})
