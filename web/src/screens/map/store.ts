// The tiles of one head: which are there, which are asked for, and which are given back when others need their room.
import type { HeadMap, Span, Tile } from '../../wire/tiles'
import { BUCKETS, side, SURVEYED, WHOLE, type Size } from './view'

const KEPT = 200      // tiles, at most half a MiB each and their pictures
const AT_ONCE = 3     // questions under way, so that what is wanted next is not behind many others

export interface Slot {
  key: number
  bucket: number               // tokens of a bucket, WHOLE or SURVEYED
  part: [Span, Span] | null    // of the survey's map: where it lies in its buckets
  rows: Span
  keys: Span
  first: boolean               // whether it has the first token's column
  tile: Tile | null            // null while it is computed
  score: Float32Array | null   // of exact cells: their masked scores, and the lse of their rows
  lse: Float32Array | null
  picture: HTMLCanvasElement | null
  shaded: number               // the version of the colours it was painted with
  text: string[] | null        // digits of its cells, made as they are looked at
  failed: boolean
}

export class Tiles {
  readonly whole: [Slot, Slot]   // with and without the first token
  latest = 0                      // milliseconds from asking for the last tile to having it
  readonly #slots = new Map<number, Slot>()
  readonly #running = new Map<Slot, AbortController>()
  #wanted: Slot[] = []
  #stored: [number, number] | null = null
  #closed = false

  constructor(readonly map: HeadMap, readonly size: Size, private readonly changed: (slot: Slot) => void, private readonly failed: (e: unknown) => void) {
    const slot = (first: boolean): Slot => this.#made(-1 - Number(first), WHOLE, [0, size.queries], [first ? 0 : 1, size.keys], first)
    this.whole = [slot(false), slot(true)]
  }

  // How many buckets the survey's own map has along both sides; none before the whole is there, and where it is no finer.
  get surveyed(): [number, number] | null {
    return this.map.surveyed ? this.#stored : null
  }

  // The row (axis 0) or column (1) of tiles of such buckets in which a token stands.
  place(bucket: number, axis: 0 | 1, token: number): number {
    if (bucket !== SURVEYED) return Math.floor(token / side(bucket))
    const count = axis ? this.size.keys : this.size.queries, buckets = this.#stored![axis]
    return Math.floor((Math.ceil(((Math.floor(token) + 1) * buckets) / count) - 1) / BUCKETS)
  }

  // The tile in a row and column of tiles of such buckets.
  at(bucket: number, row: number, column: number, first: boolean): Slot {
    const hides = column === 0 && !first
    const key = (((bucket === SURVEYED ? 63 : Math.log2(bucket)) * 65536 + row) * 65536 + column) * 2 + (hides ? 1 : 0)
    let found = this.#slots.get(key)
    if (!found) {
      const { queries, keys } = this.size, down = this.#span(bucket, row, queries, 0), across = this.#span(bucket, column, keys, 1)
      found = this.#made(key, bucket, down.tokens, [hides ? Math.min(1, keys - 1) : across.tokens[0], across.tokens[1]], !hides)
      if (bucket === SURVEYED) found.part = [down.buckets, across.buckets]
      this.#slots.set(key, found)
    }
    return found
  }

  // Of the n-th tile along an axis: its tokens, and of the survey's map its buckets.
  #span(bucket: number, n: number, count: number, axis: 0 | 1): { tokens: Span; buckets: Span } {
    const all = bucket === SURVEYED ? this.#stored![axis] : Math.ceil(count / bucket), step = bucket === SURVEYED ? BUCKETS : side(bucket) / bucket
    const buckets: Span = [n * step, Math.min((n + 1) * step, all)]
    const token = (edge: number) => (bucket === SURVEYED ? Math.floor((edge * count) / all) : Math.min(edge * bucket, count))
    return { tokens: [token(buckets[0]), token(buckets[1])], buckets }
  }

  #made(key: number, bucket: number, rows: Span, keys: Span, first: boolean): Slot {
    return { key, bucket, part: null, rows, keys, first, tile: null, score: null, lse: null, picture: null, shaded: -1, text: null, failed: false }
  }

  // These and no others are to be had, in this order.
  want(slots: Slot[]): void {
    this.#wanted = slots.filter((slot) => !slot.tile && !slot.failed)
    for (const [slot, running] of this.#running) {
      if (!this.#wanted.includes(slot)) {
        running.abort()
        this.#running.delete(slot)
      }
    }
    // Those that are looked at become the youngest; the oldest go.
    for (const slot of slots) if (slot.bucket && this.#slots.delete(slot.key)) this.#slots.set(slot.key, slot)
    for (const [key, slot] of this.#slots) {
      if (this.#slots.size <= KEPT) break
      if (!slots.includes(slot)) this.#slots.delete(key)
    }
    this.#next()
  }

  get loading(): number {
    return this.#wanted.length
  }

  close(): void {
    this.#closed = true
    for (const running of this.#running.values()) running.abort()
    this.#running.clear()
    this.#wanted = []
  }

  #next(): void {
    for (const slot of this.#wanted) {
      if (this.#running.size >= AT_ONCE || this.#running.has(this.whole[1])) return   // the whole map goes first
      if (!this.#running.has(slot)) void this.#fetch(slot)
    }
  }

  async #fetch(slot: Slot): Promise<void> {
    const running = new AbortController(), asked = performance.now()
    this.#running.set(slot, running)
    try {
      await this.#fill(slot, running.signal)
      this.latest = performance.now() - asked
    } catch (e) {
      if (running.signal.aborted || this.#closed) return
      slot.failed = true
      this.failed(e)
    }
    if (this.#closed) return
    this.#running.delete(slot)
    this.#wanted = this.#wanted.filter((other) => other !== slot)
    if (slot.tile) this.changed(slot)
    this.#next()
  }

  async #fill(slot: Slot, signal: AbortSignal): Promise<void> {
    const { bucket, rows, keys, first, part } = slot
    if (bucket === WHOLE) {
      const found = await this.map.whole(first, signal)
      this.#stored = found.stored
      slot.tile = found
      return
    }
    if (bucket !== 1) {
      slot.tile = part ? await this.map.surveyed!(...part, first, signal) : await this.map.tile(rows, keys, bucket, signal)
      return
    }
    const { weight, score, lse, top } = await this.map.cells(rows, keys, signal)
    const each = ([from, to]: Span) => Int32Array.from({ length: to - from + 1 }, (_, n) => from + n)
    slot.score = score
    slot.lse = lse
    slot.tile = { mean: weight, max: weight, top, rows: each(rows), keys: each(keys) }
  }
}
