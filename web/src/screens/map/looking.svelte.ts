// Looking at the map of one head: which head is open, where the view is, and in what scale and unit it is read.
import type { Explorer } from '../../state/explorer.svelte'
import type { Call } from '../../wire/trace'
import { Choice } from './choice.svelte'
import { Finder } from './finder.svelte'
import { Moving } from './moving'
import { POOLS, SCALES, type Pool, type Scale } from './shade'
import { Sight } from './sight.svelte'
import { Names, UNITS, type Unit } from './units'
import { around, clamp, inView, zooms, type Room, type Size, type View } from './view'

const PAUSE = 90      // between two looks at which tiles are wanted on the way, and whether the view stands still
const CELL = 44       // pixels of a cell at the closest of the four zooms

export class Looking {
  readonly explorer: Explorer
  readonly sight = new Sight(this)
  readonly choice = new Choice(this)
  readonly finder = new Finder(this)
  readonly moving = new Moving(() => this.#moved(), (to) => { this.sight.want(to); this.sight.redraw() })
  call = $state.raw<Call | null>(null)
  heads = $state(0)                                        // counts the heads that were opened
  room = $state.raw<Room>({ width: 0, height: 0 })
  settled = $state.raw<View>({ x: 0, y: 0, scale: 1 })   // the view when it last stood still

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

  #timer = 0
  #still = true

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
    const before = this.call, marks = this.sight.painter?.marks, { source, opened } = this.explorer
    this.close()
    this.heads++
    const same = before && before.queries === call.queries && before.keys === call.keys && before.kind === call.kind
    this.call = call
    this.moving.size = this.size
    const near = opened && opened.call.index === call.index && opened.head === head ? opened : null
    const map = source!.map(call, head, near)
    this.sight.open(map)
    if (marks) this.sight.painter!.marks = marks
    this.choice.open(map)
    if (!same) {
      this.finder.clear()
      this.#start()
    }
    this.settle()
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = 0
    this.moving.stop()
    this.choice.close()
    this.sight.close()
  }

  // Where the address says, else the whole map.
  #start(): void {
    const [query, key, tokens] = (this.explorer.more['map.at'] ?? '').split(',').map(Number)
    if (this.room.width) this.moving.start({ query, key }, tokens)
  }

  resize(room: Room, sharp: number): void {
    const first = !this.room.width
    this.room = room
    this.sight.sharp = sharp
    if (first) {
      this.moving.room = room
      this.#start()
    } else this.moving.resize(room)
    this.settle()
  }

  failed(e: unknown): void {
    this.explorer.error = (e as { line?: string }).line ?? this.explorer.words.unreachable
  }

  // ---- moving ----

  zoomBy(factor: number): void {
    const { cell } = this.explorer
    this.moving.zoomBy(factor, cell && this.moving.inView(cell) ? cell : null)
  }

  // One of the four zooms; the closest one keeps the chosen cell in its middle.
  zoomTo(level: number): void {
    const tokens = this.levels[level], cell = this.explorer.cell
    const at = cell && (this.moving.inView(cell) || level > this.level) ? cell : this.moving.middle
    if (tokens > 4) return this.moving.fly(around(at.query, at.key, tokens, this.room, this.size))
    const to = around(at.query, at.key, Math.floor(this.room.width / CELL), this.room, this.size)   // whole cells
    this.moving.fly(clamp({ ...to, x: Math.round(to.x), y: Math.round(to.y) }, this.room, this.size))
  }

  #moved(): void {
    this.sight.under = null
    this.#still = false
    this.sight.redraw()
    this.#timer ||= window.setTimeout(this.#look, PAUSE)
  }

  // Whether nothing has moved for a while.
  get still(): boolean {
    return !this.#timer
  }

  // Tiles are asked for on the way; the rest, which costs more than a frame has, when it stands still.
  #look = (): void => {
    this.#timer = 0
    if (this.#still) return this.settle()
    this.#still = true
    this.sight.want(this.moving.view)
    this.#timer = window.setTimeout(this.#look, PAUSE)
  }

  settle(): void {
    if (!this.sight.painter || !this.room.width) return
    this.settled = { ...this.moving.view }
    this.#still = true
    this.sight.colour()
    this.sight.want(this.moving.view)
    const { rows, keys } = inView(this.moving.view, this.room, this.size)
    this.explorer.more['map.at'] = `${Math.round((rows[0] + rows[1]) / 2)},${Math.round((keys[0] + keys[1]) / 2)},${Math.round(this.room.width / this.moving.view.scale)}`
    this.sight.redraw()
    void this.choice.search(rows, keys)
  }
}
