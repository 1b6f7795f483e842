// Where one looks, as on a street map: the corner of what is in view, in tokens, and how large a token is.
import { bisectRight } from 'd3-array'
import { thousands } from '../../parts/numbers'

export interface View { x: number; y: number; scale: number }   // key and query in the upper left corner; pixels a token
export interface Room { width: number; height: number }          // of the window onto the map, in pixels
export interface Size { queries: number; keys: number }

export const LARGEST = 64        // pixels of a cell
export const NUMBERS = 24        // from this size on, cells carry numbers
export const SIDE = 4096         // tokens along a computed tile, at most; of small buckets half as many, which the server
const SQUARE = 2048              // computes at once
const WIDE = 64                  // tokens of a bucket from which on it may compute several squares
export const BUCKETS = 256       // buckets along a tile
const COARSE = 6                 // pixels up to which a bucket of the survey may grow before finer ones are computed,
const MANY = 16_384              // where so many tokens are in view that this would take seconds
export const WHOLE = 0           // in the place of a bucket's tokens: the whole map in one tile,
export const SURVEYED = -1       // or the survey's own buckets, where those are finer

// A head that can only be seen whole, where q and k were not kept, may be looked at more closely but gets no finer.
export const smallest = (room: Room, size: Size): number => Math.min(LARGEST, room.width / size.keys, room.height / size.queries)

export function fit(room: Room, size: Size): View {
  return { x: 0, y: 0, scale: smallest(room, size) }
}

// Keeps the map in its window, in place.
export function clamp(view: View, room: Room, size: Size): View {
  view.scale = Math.min(LARGEST, Math.max(view.scale, smallest(room, size)))
  view.x = Math.max(0, Math.min(view.x, size.keys - room.width / view.scale))
  view.y = Math.max(0, Math.min(view.y, size.queries - room.height / view.scale))
  return view
}

// Zooms in place about a point of the window, which stays on its tokens.
export function zoom(view: View, px: number, py: number, factor: number, room: Room, size: Size): View {
  const scale = Math.min(LARGEST, Math.max(view.scale * factor, smallest(room, size)))
  view.x += px / view.scale - px / scale
  view.y += py / view.scale - py / scale
  view.scale = scale
  return clamp(view, room, size)
}

// The view that shows so many tokens across, with a place in its middle.
export function around(query: number, key: number, tokens: number, room: Room, size: Size): View {
  const scale = Math.min(LARGEST, Math.max(Math.min(room.width, room.height) / tokens, smallest(room, size)))
  return clamp({ x: key + 0.5 - room.width / scale / 2, y: query + 0.5 - room.height / scale / 2, scale }, room, size)
}

// The tokens in view: from the first to before the last.
export function inView(view: View, room: Room, size: Size): { rows: [number, number]; keys: [number, number] } {
  const span = (start: number, pixels: number, count: number): [number, number] =>
    [Math.max(0, Math.floor(start)), Math.min(count, Math.ceil(start + pixels / view.scale - 1e-9))]
  return { rows: span(view.y, room.height, size.queries), keys: span(view.x, room.width, size.keys) }
}

// The tokens along a bucket of the whole map and of the survey's own (0 where that is no finer), and whether finer ones can be
// computed.
export interface Known { whole: number; surveyed: number; kept: boolean }

// How many tokens a bucket holds: never less than a pixel is wide, so that none can fall between two of them; WHOLE and SURVEYED
// have none.
export function bucketFor(scale: number, sharp: number, room: Room, { whole, surveyed, kept }: Known): number {
  const most = Math.max(room.width, room.height) / scale > MANY ? COARSE : 1.5
  const finer = surveyed > 0 && surveyed * scale * sharp >= 1 - 1e-9
  if (whole > 1 && whole * scale <= (finer ? 1.5 : most)) return WHOLE
  if (finer && (!kept || surveyed * scale <= most)) return SURVEYED
  if (!kept) return WHOLE
  let bucket = 1
  while (bucket * scale * sharp < 1 - 1e-9) bucket *= 2
  return bucket
}

// Tokens along a tile of computed buckets.
export const side = (bucket: number): number => Math.min(bucket < WIDE ? SQUARE : SIDE, BUCKETS * bucket)

// Round places along an axis, at least `room` pixels from each other: their tokens, counted in words or lines where `starts` are.
export function ticks(from: number, to: number, scale: number, room: number, starts: Int32Array | null): number[] {
  const least = starts ? Math.max(1, ((unitAt(starts, to - 1) - unitAt(starts, from)) * room) / ((to - from) * scale)) : Math.max(1, room / scale)
  const power = 10 ** Math.floor(Math.log10(least) + 1e-9)
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least - 1e-9)!
  const [first, last] = starts ? [unitAt(starts, from), unitAt(starts, to - 1)] : [from, to - 1]
  const found: number[] = []
  for (let unit = Math.ceil(first / step) * step; unit <= last; unit += step) found.push(starts ? starts[unit] : unit)
  return found.filter((token) => token >= from)
}

// The unit in which a token stands, of units that start at these tokens.
export const unitAt = (starts: Int32Array, token: number): number => Math.max(0, bisectRight(starts, token) - 1)

// The four zooms from the whole map down to single cells: tokens across, each well below the one before.
export function zooms(size: Size): number[] {
  const whole = Math.max(size.queries, size.keys)
  return [whole, ...[8192, 512].filter((n) => n * 2 <= whole), Math.min(4, whole)]
}

export const sizeName = (tokens: number): string => (tokens >= 1024 && tokens % 1024 === 0 ? `${tokens / 1024}k` : thousands(tokens))
