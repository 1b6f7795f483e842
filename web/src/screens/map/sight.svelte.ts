// What of a head is in sight: which tiles are wanted, at which zoom they are drawn, and between which limits they are coloured.
import type { HeadMap } from '../../wire/tiles'
import type { Looking } from './looking.svelte'
import { Painter } from './painter'
import { bucketOf, floor, largest, type Limits } from './shade'
import { Tiles, type Slot } from './store'
import { around, bucketFor, inView, SURVEYED, WHOLE, type View } from './view'

const GRACE = 250     // for which the tiles of the zoom before may stand where finer ones are still to come
export const SQUARE = 132

// What lies under the pointer: a bucket of tokens or, close enough, one cell.
export interface Under { px: number; py: number; rows: [number, number]; keys: [number, number]; max: number; mean: number; score: number | null; lse: number }
export interface Square { tokens: number; view: View; bucket: number }

export class Sight {
  bucket = $state(WHOLE)                                   // tokens of a bucket as they are drawn, WHOLE or SURVEYED
  loading = $state(0)                                      // tiles in view that are still to come
  arrived = $state(0)                                      // counts the tiles that came
  limits = $state.raw<Limits>({ low: 1e-7, high: 1 })
  under = $state.raw<Under | null>(null)
  painter: Painter | null = null
  redraw: () => void = () => undefined
  sharp = 1

  #grace = 0
  readonly #list: Slot[] = []

  constructor(private readonly looking: Looking) {}

  open(map: HeadMap): void {
    const tiles = new Tiles(map, this.looking.size, () => this.#came(), (e) => this.looking.failed(e))
    this.painter = new Painter(tiles)
    if (this.bucket === SURVEYED) this.bucket = WHOLE   // of this head it is not known yet
  }

  close(): void {
    clearTimeout(this.#grace)
    this.painter?.tiles.close()
    this.painter = this.under = null
  }

  // Tokens along a bucket of the whole map as it came, or before that as it will.
  get #whole(): number {
    const tile = this.painter?.tiles.whole[1].tile
    return this.#along(tile ? Math.max(tile.rows.length, tile.keys.length) - 1 : 256)
  }

  get #surveyed(): number {
    const found = this.painter?.tiles.surveyed
    return found ? this.#along(Math.max(...found)) : 0
  }

  #along = (buckets: number): number => Math.ceil(Math.max(this.looking.size.queries, this.looking.size.keys) / buckets)

  // Tokens along a bucket as it is drawn.
  get tokens(): number {
    return this.bucket === WHOLE ? this.#whole : this.bucket === SURVEYED ? this.#surveyed : this.bucket
  }

  #bucketOf = (scale: number, room = this.looking.room): number =>
    bucketFor(scale, this.sharp, room, { whole: this.#whole, surveyed: this.#surveyed, kept: this.looking.call!.kept })

  #touched = (view: View, bucket: number): Slot[] => this.painter!.touched(view, this.looking.room, bucket, this.#list)

  // Asks for the tiles of a view and of the squares beside it, what is nearest to the middle first.
  want(view: View): void {
    const painter = this.painter!, bucket = this.#bucketOf(view.scale), { width, height } = this.looking.room
    const slots = [...this.#touched(view, bucket)]
    const x = view.x + width / view.scale / 2, y = view.y + height / view.scale / 2
    const far = ({ rows, keys }: Slot) => Math.hypot((rows[0] + rows[1]) / 2 - y, (keys[0] + keys[1]) / 2 - x)
    slots.sort((a, b) => far(a) - far(b))
    const room = { width: SQUARE, height: SQUARE }
    // Before a cell is chosen it is not known where the closer squares will be.
    const squares = this.squares().filter((_, n) => this.looking.explorer.cell || n <= this.looking.level)
    const others = squares.flatMap((square) => [...painter.touched(square.view, room, square.bucket, this.#list)])
    const whole = painter.tiles.whole
    painter.tiles.want([...new Set([whole[1], ...(this.looking.scale === 'hide' ? [whole[0]] : []), ...slots, ...others])])
    this.#switch(bucket, slots)
  }

  // Draws another zoom's tiles once all of them are there, or when one has waited long enough.
  #switch(bucket: number, slots: Slot[]): void {
    this.loading = slots.filter((slot) => !slot.tile && !slot.failed).length
    clearTimeout(this.#grace)
    if (bucket === this.bucket) return
    const turn = () => {
      this.bucket = bucket
      this.colour()
      this.redraw()
    }
    if (!this.loading || !this.#touched(this.looking.moving.view, this.bucket).length) turn()
    else this.#grace = window.setTimeout(turn, GRACE)
  }

  #came(): void {
    if (!this.painter) return
    if (this.looking.still || !this.arrived) this.arrived++   // what else is drawn follows when the view stands still
    const view = this.looking.moving.target, bucket = this.#bucketOf(view.scale)
    this.#switch(bucket, [...this.#touched(view, bucket)])
    this.colour()
    this.redraw()
  }

  // The limits of the ramp: on the linear scales up to the largest number in view.
  colour(): void {
    const { painter } = this, { scale, pool, size, moving, room, explorer } = this.looking
    if (!painter) return
    let limits: Limits = scale === 'log' ? { low: floor(size.keys), high: 1 } : { low: 0, high: 1 }
    if (scale === 'linear' || scale === 'hide') {
      const { rows, keys } = inView(moving.view, room, size)
      let high = 0
      for (const { tile } of this.#touched(moving.view, this.bucket)) if (tile) high = Math.max(high, largest(tile, pool, rows, keys))
      limits = { low: 0, high: high || 1 }
    }
    if (limits.low !== this.limits.low || limits.high !== this.limits.high) this.limits = limits
    painter.recolour({ theme: explorer.theme, pool, scale, limits: this.limits, bucket: this.bucket })
  }

  // When the scale, the pooling or the theme was changed.
  repaint(): void {
    if (!this.painter || !this.looking.room.width) return
    this.colour()   // first: which tiles are wanted depends on the scale
    this.want(this.looking.moving.view)
    this.redraw()
  }

  // The four squares: those wider than the view are about its middle, those closer about the chosen cell.
  squares(): Square[] {
    const { moving, levels, level, size } = this.looking, { cell } = this.looking.explorer, { middle } = moving
    return levels.map((tokens, n) => {
      const at = n > level && cell && moving.inView(cell) ? cell : middle
      const room = { width: SQUARE, height: SQUARE }, square = around(at.query, at.key, tokens, room, size)
      if (tokens <= 4) Object.assign(square, { x: Math.round(square.x), y: Math.round(square.y) })   // whole cells
      return { tokens, view: square, bucket: this.#bucketOf(square.scale, room) }
    })
  }

  // What is drawn at a point of the window.
  at(px: number, py: number): Under | null {
    const { room, size } = this.looking, { view } = this.looking.moving
    if (!this.painter || px < 0 || py < 0 || px >= room.width || py >= room.height) return null
    const key = Math.floor(view.x + px / view.scale), query = Math.floor(view.y + py / view.scale)
    if (key >= size.keys || query >= size.queries) return null
    for (const { tile, score, lse } of this.#touched(view, this.bucket)) {
      if (!tile) continue
      const r = bucketOf(tile.rows, query), c = bucketOf(tile.keys, key)
      if (r < 0 || c < 0) continue
      const n = r * (tile.keys.length - 1) + c
      return {
        px, py, rows: [tile.rows[r], tile.rows[r + 1]], keys: [tile.keys[c], tile.keys[c + 1]], max: tile.max[n], mean: tile.mean[n],
        score: score ? score[n] : null, lse: lse ? lse[r] : 0,
      }
    }
    return null
  }
}
