// What is looked at on the map of one head: where, how closely, which cell is chosen, and what is known about it.
import type { Explorer } from '../../state/explorer.svelte'
import type { Cell } from '../../state/hash'
import type { HeadMap, Links, Written } from '../../wire/tiles'
import type { Call } from '../../wire/trace'
import { Moving } from './moving'
import { Painter } from './painter'
import { bucketOf, floor, largest, POOLS, SCALES, type Limits, type Pool, type Scale } from './shade'
import { Tiles, type Slot } from './store'
import { Names, numbered, Searched, UNITS, type Unit } from './units'
import { around, bucketFor, clamp, inView, NUMBERS, SURVEYED, WHOLE, zooms, type Room, type Size, type View } from './view'

const GRACE = 250     // for which the tiles of the zoom before may stand where finer ones are still to come
const PAUSE = 90      // between two looks at which tiles are wanted on the way, and whether the view stands still
export const SQUARE = 132
const CELL = 44       // pixels of a cell at the closest of the four zooms
const LINKS = 8
const AROUND = 30     // tokens of an excerpt on either side

// What lies under the pointer: a bucket of tokens or, close enough, one cell.
export interface Under { px: number; py: number; rows: [number, number]; keys: [number, number]; max: number; mean: number; score: number | null; lse: number }
export interface Square { tokens: number; view: View; bucket: number }

export class Looking {
  readonly explorer: Explorer
  call = $state.raw<Call | null>(null)
  heads = $state(0)                                        // counts the heads that were opened
  room = $state.raw<Room>({ width: 0, height: 0 })
  settled = $state.raw<View>({ x: 0, y: 0, scale: 1 })   // the view when it last stood still
  bucket = $state(WHOLE)                                   // tokens of a bucket as they are drawn, WHOLE or SURVEYED
  loading = $state(0)                                      // tiles in view that are still to come
  arrived = $state(0)                                      // counts the tiles that came
  limits = $state.raw<Limits>({ low: 1e-7, high: 1 })
  links = $state.raw<Links | null>(null)
  searching = $state(false)
  under = $state.raw<Under | null>(null)
  written = $state.raw<{ cell: Cell; is: Written } | null>(null)
  row = $state.raw<{ cell: Cell; from: number; weights: Float32Array } | null>(null)   // the query's weights about its key
  card = $state(false)
  passages = $state.raw<{ wanted: string; tokens: number[]; at: number } | null>(null)

  readonly moving = new Moving(() => this.#moved(), (to) => { this.#want(to); this.redraw() })
  painter: Painter | null = null
  redraw: () => void = () => undefined
  sharp = 1

  scale = $derived.by(() => this.#one<Scale>(SCALES, 'scale', 'log'))
  pool = $derived.by(() => this.#one<Pool>(POOLS, 'pool', 'max'))
  unit = $derived.by(() => this.#one<Unit>(UNITS, 'unit', 'token'))
  size = $derived<Size>({ queries: this.call?.queries ?? 1, keys: this.call?.keys ?? 1 })
  levels = $derived([...new Set(zooms(this.size))])   // of four tokens there is one
  // Which of the four zooms is nearest to what is in view.
  level = $derived.by(() => {
    const tokens = Math.min(this.room.width, this.room.height) / this.settled.scale
    const far = this.levels.map((n) => Math.abs(Math.log(tokens / (n <= 4 ? Math.max(n, this.room.width / CELL) : n))))
    return far.indexOf(Math.min(...far))
  })
  names = $derived.by(() => new Names(...this.explorer.axes, this.unit, this.size, this.call?.kind === 'cross'))

  #map: HeadMap | null = null
  #timer = 0
  #still = true
  #grace = 0
  #asked = new AbortController()
  #wanted = 0
  #searched: Searched | null = null
  readonly #list: Slot[] = []

  constructor(explorer: Explorer) {
    this.explorer = explorer
  }

  #one<T extends string>(known: readonly T[], name: string, usual: T): T {
    return known.find((each) => each === this.explorer.more[`map.${name}`]) ?? usual
  }

  set(name: 'scale' | 'pool' | 'unit', value: string): void {
    this.explorer.more[`map.${name}`] = value
  }

  next(name: 'scale' | 'pool' | 'unit'): void {
    const known: readonly string[] = { scale: SCALES, pool: POOLS, unit: UNITS }[name]
    this.set(name, known[(known.indexOf(this[name]) + 1) % known.length])
  }

  // ---- the head that is open ----

  open(call: Call, head: number): void {
    const before = this.call, marks = this.painter?.marks, { source, opened } = this.explorer
    this.close()
    this.heads++
    const same = before && before.queries === call.queries && before.keys === call.keys && before.kind === call.kind
    this.call = call
    this.moving.size = this.size
    const near = opened && opened.call.index === call.index && opened.head === head ? opened : null
    this.#map = source!.map(call, head, near)
    const tiles = new Tiles(this.#map, this.size, () => this.#came(), (e) => this.#failed(e))
    this.painter = new Painter(tiles)
    if (this.bucket === SURVEYED) this.bucket = WHOLE   // of this head it is not known yet
    if (marks) this.painter.marks = marks
    this.links = null
    if (!same) {
      this.#searched = null
      this.passages = null
      this.#start()
    }
    this.settle()
  }

  close(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#grace)
    this.#timer = 0
    this.moving.stop()
    this.#asked.abort()
    this.painter?.tiles.close()
    this.painter = null
    this.written = this.row = this.under = null
  }

  // Where the address says, else the whole map.
  #start(): void {
    const [query, key, tokens] = (this.explorer.more['map.at'] ?? '').split(',').map(Number)
    if (this.room.width) this.moving.start({ query, key }, tokens)
  }

  resize(room: Room, sharp: number): void {
    const first = !this.room.width
    this.room = room
    this.sharp = sharp
    if (first) {
      this.moving.room = room
      this.#start()
    } else this.moving.resize(room)
    this.settle()
  }

  #failed(e: unknown): void {
    this.explorer.error = (e as { line?: string }).line ?? this.explorer.words.unreachable
  }

  // ---- moving ----

  zoomBy(factor: number): void {
    const { cell } = this.explorer
    this.moving.zoomBy(factor, cell && this.inView(cell) ? cell : null)
  }

  // One of the four zooms; the closest one keeps the chosen cell in its middle.
  zoomTo(level: number): void {
    const tokens = this.levels[level], cell = this.explorer.cell
    const at = cell && (this.inView(cell) || level > this.level) ? cell : this.moving.middle
    if (tokens > 4) return this.moving.fly(around(at.query, at.key, tokens, this.room, this.size))
    const to = around(at.query, at.key, Math.floor(this.room.width / CELL), this.room, this.size)   // whole cells
    this.moving.fly(clamp({ ...to, x: Math.round(to.x), y: Math.round(to.y) }, this.room, this.size))
  }

  #moved(): void {
    this.under = null
    this.#still = false
    this.redraw()
    this.#timer ||= window.setTimeout(this.#look, PAUSE)
  }

  // Tiles are asked for on the way; the rest, which costs more than a frame has, when it stands still.
  #look = (): void => {
    this.#timer = 0
    if (this.#still) return this.settle()
    this.#still = true
    this.#want(this.moving.view)
    this.#timer = window.setTimeout(this.#look, PAUSE)
  }

  // ---- what is in view ----

  inView = (cell: Cell): boolean => this.moving.inView(cell)

  settle(): void {
    if (!this.painter || !this.room.width) return
    this.settled = { ...this.moving.view }
    this.#still = true
    this.#colour()
    this.#want(this.moving.view)
    const { rows, keys } = inView(this.moving.view, this.room, this.size)
    this.explorer.more['map.at'] = `${Math.round((rows[0] + rows[1]) / 2)},${Math.round((keys[0] + keys[1]) / 2)},${Math.round(this.room.width / this.moving.view.scale)}`
    this.redraw()
    void this.#search(rows, keys)
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

  #along = (buckets: number): number => Math.ceil(Math.max(this.size.queries, this.size.keys) / buckets)

  // Tokens along a bucket as it is drawn.
  get tokens(): number {
    return this.bucket === WHOLE ? this.#whole : this.bucket === SURVEYED ? this.#surveyed : this.bucket
  }

  #bucketOf = (scale: number, room = this.room): number =>
    bucketFor(scale, this.sharp, room, { whole: this.#whole, surveyed: this.#surveyed, kept: this.call!.kept })

  // Asks for the tiles of a view and of the squares beside it, what is nearest to the middle first.
  #want(view: View): void {
    const painter = this.painter!, bucket = this.#bucketOf(view.scale), { width, height } = this.room
    const slots = [...painter.touched(view, this.room, bucket, this.#list)]
    const x = view.x + width / view.scale / 2, y = view.y + height / view.scale / 2
    const far = ({ rows, keys }: Slot) => Math.hypot((rows[0] + rows[1]) / 2 - y, (keys[0] + keys[1]) / 2 - x)
    slots.sort((a, b) => far(a) - far(b))
    const room = { width: SQUARE, height: SQUARE }
    // Before a cell is chosen it is not known where the closer squares will be.
    const squares = this.squares().filter((_, n) => this.explorer.cell || n <= this.level)
    const others = squares.flatMap((square) => [...painter.touched(square.view, room, square.bucket, this.#list)])
    const whole = painter.tiles.whole
    painter.tiles.want([...new Set([whole[1], ...(this.scale === 'hide' ? [whole[0]] : []), ...slots, ...others])])
    this.#switch(bucket, slots)
  }

  // Draws another zoom's tiles once all of them are there, or when one has waited long enough.
  #switch(bucket: number, slots: Slot[]): void {
    this.loading = slots.filter((slot) => !slot.tile && !slot.failed).length
    clearTimeout(this.#grace)
    if (bucket === this.bucket) return
    const turn = () => {
      this.bucket = bucket
      this.#colour()
      this.redraw()
    }
    if (!this.loading || !this.painter!.touched(this.moving.view, this.room, this.bucket, this.#list).length) turn()
    else this.#grace = window.setTimeout(turn, GRACE)
  }

  #came(): void {
    if (!this.painter) return
    if (!this.#timer || !this.arrived) this.arrived++   // what else is drawn follows when the view stands still
    const view = this.moving.target, bucket = this.#bucketOf(view.scale)
    this.#switch(bucket, [...this.painter.touched(view, this.room, bucket, this.#list)])
    this.#colour()
    this.redraw()
  }

  // The limits of the ramp: on the linear scales up to the largest number in view.
  #colour(): void {
    const painter = this.painter
    if (!painter) return
    const { scale, pool } = this
    let limits: Limits = scale === 'log' ? { low: floor(this.size.keys), high: 1 } : { low: 0, high: 1 }
    if (scale === 'linear' || scale === 'hide') {
      const { rows, keys } = inView(this.moving.view, this.room, this.size)
      let high = 0
      for (const { tile } of painter.touched(this.moving.view, this.room, this.bucket, this.#list)) if (tile) high = Math.max(high, largest(tile, pool, rows, keys))
      limits = { low: 0, high: high || 1 }
    }
    if (limits.low !== this.limits.low || limits.high !== this.limits.high) this.limits = limits
    painter.recolour({ theme: this.explorer.theme, pool, scale, limits: this.limits, bucket: this.bucket })
  }

  // When the scale, the pooling or the theme was changed.
  repaint(): void {
    if (!this.painter || !this.room.width) return
    this.#colour()   // first: which tiles are wanted depends on the scale
    this.#want(this.moving.view)
    this.redraw()
  }

  // The four squares: those wider than the view are about its middle, those closer about the chosen cell.
  squares(): Square[] {
    const { cell } = this.explorer, { middle } = this.moving
    return this.levels.map((tokens, n) => {
      const at = n > this.level && cell && this.inView(cell) ? cell : middle
      const room = { width: SQUARE, height: SQUARE }, square = around(at.query, at.key, tokens, room, this.size)
      if (tokens <= 4) Object.assign(square, { x: Math.round(square.x), y: Math.round(square.y) })   // whole cells
      return { tokens, view: square, bucket: this.#bucketOf(square.scale, room) }
    })
  }

  // ---- links and the chosen cell ----

  async #search(rows: [number, number], keys: [number, number]): Promise<void> {
    this.#asked.abort()
    const asked = (this.#asked = new AbortController())
    this.searching = true
    try {
      const links = await this.#map!.links(rows, keys, LINKS, asked.signal)
      if (asked.signal.aborted) return
      this.links = links
      this.searching = false
      if (!this.explorer.cell && links.links.length) this.choose(links.links[0])
    } catch (e) {
      if (!asked.signal.aborted) this.#failed(e)
    }
  }

  choose({ query, key }: Cell): void {
    this.explorer.cell = { query, key }
    if (this.painter) this.#want(this.moving.target)
    this.redraw()
  }

  // The chosen cell's arithmetic, and its query's weights on the words about its key.
  async describe(cell: Cell): Promise<void> {
    const wanted = ++this.#wanted, map = this.#map, { call } = this
    if (!map || !call?.kept || cell.query >= call.queries || cell.key >= call.keys) return
    try {
      const from = Math.max(0, cell.key - AROUND), to = Math.min(call.keys, cell.key + AROUND)
      const [is, { weight }] = await Promise.all([map.cell(cell.query, cell.key), map.cells([cell.query, cell.query + 1], [from, to])])
      if (wanted !== this.#wanted || map !== this.#map) return
      this.written = { cell, is }
      this.row = { cell, from, weights: weight }
    } catch (e) {
      if (wanted === this.#wanted && map === this.#map) this.#failed(e)
    }
  }

  // The link after the chosen one, from the strongest on.
  nextLink(): void {
    const { links } = this, { cell } = this.explorer
    if (!links?.links.length) return
    const at = links.links.findIndex((link) => link.query === cell?.query && link.key === cell.key)
    this.go(links.links[(at + 1) % links.links.length])
  }

  // Choose a cell, and move there if it is out of view.
  go(cell: Cell): void {
    this.choose(cell)
    if (this.inView(cell)) return
    const { width } = this.room
    this.moving.fly(around(cell.query, cell.key, width / this.moving.view.scale, this.room, this.size))
  }

  // Choose what is at a point: the cell where it can be told, else the strongest link of the bucket.
  async take(px: number, py: number): Promise<void> {
    const at = this.at(px, py)
    if (!at) return
    if (at.rows[1] - at.rows[0] === 1 && at.keys[1] - at.keys[0] === 1) return this.choose({ query: at.rows[0], key: at.keys[0] })
    if (!this.call!.kept) return
    const { links } = await this.#map!.links(at.rows, at.keys, 1)
    if (links.length) this.choose(links[0])
  }

  // What is drawn at a point of the window.
  at(px: number, py: number): Under | null {
    const { painter, room } = this, { view } = this.moving
    if (!painter || px < 0 || py < 0 || px >= room.width || py >= room.height) return null
    const key = Math.floor(view.x + px / view.scale), query = Math.floor(view.y + py / view.scale)
    if (key >= this.size.keys || query >= this.size.queries) return null
    for (const { tile, score, lse } of painter.touched(view, room, this.bucket, this.#list)) {
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

  // Arrows pan, and where cells carry numbers they move the choice.
  arrow(across: number, down: number): void {
    const { cell } = this.explorer
    if (this.moving.view.scale < NUMBERS || !cell) return this.moving.pan(across, down)
    const to = {
      query: Math.min(Math.max(cell.query + down, 0), this.size.queries - 1), key: Math.min(Math.max(cell.key + across, 0), this.size.keys - 1),
    }
    this.choose(to)
    if (!this.inView(to)) this.moving.pan(across, down)
  }

  // ---- words ----

  slot = (query: number): number => this.names.slot(query)
  name = (role: 'query' | 'key', place: number): string => this.names.name(role, place)
  count = (role: 'query' | 'key', place: number): number => this.names.count(role, place)

  // Go to a token by number, or to the next place of a text: as a query to what it looks at most, as a key to who looks at it most.
  async find(wanted: string, asKey: boolean): Promise<void> {
    const tokens = this.explorer.axes[asKey ? 1 : 0]
    const number = numbered(wanted, tokens.length)
    if (number === null) {
      this.#searched ??= new Searched(this.explorer.axes[1])
      const again = this.passages?.wanted === wanted && this.passages.tokens.length
      this.passages = again
        ? { ...this.passages!, at: (this.passages!.at + 1) % this.passages!.tokens.length }
        : { wanted, tokens: this.#searched.find(wanted), at: 0 }
    } else {
      this.passages = { wanted, tokens: [number], at: 0 }
    }
    const { at, tokens: found } = this.passages
    if (found.length && this.#map) await this.#visit(found[at], asKey)
    this.redraw()
  }

  async #visit(token: number, asKey: boolean): Promise<void> {
    const { queries, keys } = this.size, query = Math.max(0, Math.min(token - this.slot(0), queries - 1))
    const at = asKey || !this.call!.kept ? Math.min(token, keys - 1) : query
    if (!this.call!.kept) return this.go({ query, key: at })
    const { links } = asKey ? await this.#map!.links([0, queries], [at, at + 1], 1) : await this.#map!.links([at, at + 1], [0, keys], 1)
    this.go(links[0] ?? (asKey ? { query, key: at } : { query: at, key: Math.min(this.slot(at), keys - 1) }))
  }
}
