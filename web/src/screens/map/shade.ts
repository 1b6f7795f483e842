// From weights to pixels. A scale changes colours and never a number.
import { bisectRight } from 'd3-array'
import { weight, type Theme } from '../../parts/palette'
import type { Tile } from '../../wire/tiles'

export const SCALES = ['linear', 'log', 'hide', 'row'] as const
export type Scale = (typeof SCALES)[number]
export const POOLS = ['max', 'mean'] as const
export type Pool = (typeof POOLS)[number]
export interface Limits { low: number; high: number }

const STEPS = 1024

// The ramp in steps, as pixels and as fills.
export interface Ramp { pixels: Uint32Array; fills: string[]; inks: string[] }
export function ramp(theme: Theme): Ramp {
  const colours = Array.from({ length: STEPS }, (_, n) => weight(n / (STEPS - 1), theme))
  const pixels = Uint32Array.from(colours, ({ fill }) => {
    const [r, g, b] = fill.match(/\d+/g)!.map(Number)
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0
  })
  return { pixels, fills: colours.map((c) => c.fill), inks: colours.map((c) => c.ink) }
}

// The logarithmic scale begins well below an even share of the longest row.
export const floor = (keys: number): number => 10 ** -(Math.ceil(Math.log10(Math.max(keys, 2)) - 1e-9) + 1)

// The step of the ramp for a weight in a row whose largest is `top`.
export function step(value: number, top: number, scale: Scale, { low, high }: Limits): number {
  const share = scale === 'row' ? value / top : scale === 'log' ? 1 - Math.log(Math.min(1, value / high)) / Math.log(low / high) : value / high
  return Math.round((STEPS - 1) * Math.min(1, Math.max(0, share)))
}

// Paints a tile's buckets, one pixel each; a bucket without a weight stays clear: all of it is masked, or too small for a number.
export function shade(tile: Tile, pool: Pool, scale: Scale, limits: Limits, { pixels }: Ramp, out: Uint32Array): void {
  const values = tile[pool], width = tile.keys.length - 1
  for (let r = 0, n = 0; r < tile.rows.length - 1; r++) {
    const top = tile.top[r]
    for (let c = 0; c < width; c++, n++) out[n] = tile.max[n] === 0 ? 0 : pixels[step(values[n], top, scale, limits)]
  }
}

// The largest of a tile's numbers in the buckets that touch a region.
export function largest(tile: Tile, pool: Pool, rows: [number, number], keys: [number, number]): number {
  const values = tile[pool], width = tile.keys.length - 1
  const [r0, r1] = touched(tile.rows, rows), [c0, c1] = touched(tile.keys, keys)
  let found = 0
  for (let r = r0; r < r1; r++) for (let c = c0; c < c1; c++) if (values[r * width + c] > found) found = values[r * width + c]
  return found
}

// The bucket that holds a token; -1 outside.
export const bucketOf = (edges: Int32Array, token: number): number =>
  token < edges[0] || token >= edges[edges.length - 1] ? -1 : bisectRight(edges, token) - 1

function touched(edges: Int32Array, [from, to]: [number, number]): [number, number] {
  const last = edges.length - 1
  if (to <= edges[0] || from >= edges[last]) return [0, 0]
  return [bucketOf(edges, Math.max(from, edges[0])), bucketOf(edges, Math.min(to, edges[last]) - 1) + 1]
}
