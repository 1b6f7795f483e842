import { expect, test } from 'vitest'
import { around, bucketFor, clamp, fit, inView, LARGEST, side, SURVEYED, ticks, unitAt, WHOLE, zoom, zooms } from './view'

const room = { width: 640, height: 640 }, size = { queries: 131072, keys: 131072 }

test('the whole map fits, and nothing but the map is in view', () => {
  const view = fit(room, size)
  expect(inView(view, room, size)).toEqual({ rows: [0, 131072], keys: [0, 131072] })
  expect(clamp({ x: -50, y: 1e9, scale: 1 }, room, size)).toEqual({ x: 0, y: 131072 - 640, scale: 1 })
  expect(fit(room, { queries: 3, keys: 5 }).scale).toBe(LARGEST)
})

test('a zoom leaves the token under the pointer where it is', () => {
  const view = { x: 60000, y: 90000, scale: 0.5 }
  const before = view.x + 200 / view.scale
  zoom(view, 200, 100, 3, room, size)
  expect(view.x + 200 / view.scale).toBeCloseTo(before, 6)
  expect(view.scale).toBe(1.5)
  zoom(view, 200, 100, 1e9, room, size)
  expect(view.scale).toBe(LARGEST)
})

test('a bucket is never narrower than a pixel of the device, so that no large weight falls between two', () => {
  for (const sharp of [1, 1.5, 2]) {
    for (let scale = LARGEST; scale > 0.004; scale *= 0.83) {
      for (const surveyed of [0, 128]) {
        const bucket = bucketFor(scale, sharp, room, { whole: 512, surveyed, kept: true })
        if (bucket === WHOLE) expect(512 * scale).toBeLessThanOrEqual(6)
        else if (bucket === SURVEYED) {
          expect(128 * scale * sharp).toBeGreaterThanOrEqual(1 - 1e-9)
          expect(surveyed * scale).toBeLessThanOrEqual(6)
        } else {
          expect(bucket * scale * sharp).toBeGreaterThanOrEqual(1 - 1e-9)
          if (bucket > 1) expect((bucket / 2) * scale * sharp).toBeLessThan(1)
        }
      }
    }
  }
  const none = { whole: 512, surveyed: 0, kept: false }
  expect(bucketFor(LARGEST, 1, room, none)).toBe(WHOLE)     // nothing finer was kept
  expect(bucketFor(LARGEST, 1, room, { ...none, surveyed: 128 })).toBe(SURVEYED)
  expect(bucketFor(640 / 200, 1, room, { whole: 1, surveyed: 0, kept: true })).toBe(1)    // a short text needs no pooling
})

test('what was surveyed need not be computed: between the whole map and 16k tokens nothing is', () => {
  const all = { whole: 512, surveyed: 128, kept: true }
  for (let tokens = 16_400; tokens <= 131_072; tokens += 500) expect(bucketFor(640 / tokens, 1, room, all)).toBeLessThanOrEqual(0)
  expect([100_000, 70_000, 20_000, 16_000].map((tokens) => bucketFor(640 / tokens, 1, room, all))).toEqual([WHOLE, SURVEYED, SURVEYED, 32])
})

test('tiles are of at most 256 x 256 buckets and 4,096 x 4,096 tokens', () => {
  for (let bucket = 1; bucket <= 4096; bucket *= 2) {
    expect(side(bucket)).toBeLessThanOrEqual(4096)
    expect(side(bucket) / bucket).toBeLessThanOrEqual(256)
    expect(side(bucket) % bucket).toBe(0)
  }
})

test('a place comes to the middle', () => {
  const view = around(70000, 50000, 8192, room, size), { rows, keys } = inView(view, room, size)
  expect([rows[0] + rows[1], keys[0] + keys[1]].map((n) => n / 2)).toEqual([70000.5, 50000.5])
  expect(rows[1] - rows[0]).toBe(8193)   // parts of the first and of the last
})

test('round places stand far enough apart', () => {
  expect(ticks(0, 131072, 640 / 131072, 76, null)).toEqual([0, 20000, 40000, 60000, 80000, 100000, 120000])
  expect(ticks(49152, 57344, 640 / 8192, 90, null)).toEqual([50000, 52000, 54000, 56000])
  expect(ticks(3, 9, 64, 60, null)).toEqual([3, 4, 5, 6, 7, 8])
})

test('places may be counted in words', () => {
  const starts = Int32Array.from([0, 2, 3, 7, 8, 12])
  expect([0, 1, 2, 6, 7, 11, 12, 20].map((token) => unitAt(starts, token))).toEqual([0, 0, 1, 2, 3, 4, 5, 5])
  expect(ticks(2, 13, 30, 30, starts)).toEqual([2, 3, 7, 8, 12])
})

test('four zooms, each well below the one before', () => {
  expect(zooms(size)).toEqual([131072, 8192, 512, 4])
  expect(zooms({ queries: 700, keys: 700 })).toEqual([700, 4])
  expect(zooms({ queries: 3, keys: 2 })).toEqual([3, 3])
})
