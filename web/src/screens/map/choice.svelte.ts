// The chosen cell: the links that offer themselves, how one is chosen, and what is known about it.
import type { Cell } from '../../state/hash'
import type { HeadMap, Links, Written } from '../../wire/tiles'
import type { Looking } from './looking.svelte'
import { around, NUMBERS } from './view'

const LINKS = 8
const AROUND = 30     // tokens of an excerpt on either side

export class Choice {
  links = $state.raw<Links | null>(null)   // the strongest in view
  searching = $state(false)
  written = $state.raw<{ cell: Cell; is: Written } | null>(null)
  row = $state.raw<{ cell: Cell; from: number; weights: Float32Array } | null>(null)   // the query's weights about its key
  card = $state(false)

  #map: HeadMap | null = null
  #asked = new AbortController()
  #wanted = 0

  constructor(private readonly looking: Looking) {}

  open(map: HeadMap): void {
    this.#map = map
    this.links = null
  }

  close(): void {
    this.#asked.abort()
    this.written = this.row = null
  }

  async search(rows: [number, number], keys: [number, number]): Promise<void> {
    this.#asked.abort()
    const asked = (this.#asked = new AbortController())
    this.searching = true
    try {
      const links = await this.#map!.links(rows, keys, LINKS, asked.signal)
      if (asked.signal.aborted) return
      this.links = links
      this.searching = false
      if (!this.looking.explorer.cell && links.links.length) this.choose(links.links[0])
    } catch (e) {
      if (!asked.signal.aborted) this.looking.failed(e)
    }
  }

  choose({ query, key }: Cell): void {
    const { explorer, sight, moving } = this.looking
    explorer.cell = { query, key }
    if (sight.painter) sight.want(moving.target)
    sight.redraw()
  }

  // The chosen cell's arithmetic, and its query's weights on the words about its key.
  async describe(cell: Cell): Promise<void> {
    const wanted = ++this.#wanted, map = this.#map, { call } = this.looking
    if (!map || !call?.kept || cell.query >= call.queries || cell.key >= call.keys) return
    try {
      const from = Math.max(0, cell.key - AROUND), to = Math.min(call.keys, cell.key + AROUND)
      const [is, { weight }] = await Promise.all([map.cell(cell.query, cell.key), map.cells([cell.query, cell.query + 1], [from, to])])
      if (wanted !== this.#wanted || map !== this.#map) return
      this.written = { cell, is }
      this.row = { cell, from, weights: weight }
    } catch (e) {
      if (wanted === this.#wanted && map === this.#map) this.looking.failed(e)
    }
  }

  // The link after the chosen one, from the strongest on.
  next(): void {
    const { links } = this, { cell } = this.looking.explorer
    if (!links?.links.length) return
    const at = links.links.findIndex((link) => link.query === cell?.query && link.key === cell.key)
    this.go(links.links[(at + 1) % links.links.length])
  }

  // Choose a cell, and move there if it is out of view.
  go(cell: Cell): void {
    this.choose(cell)
    const { moving, room, size } = this.looking
    if (!moving.inView(cell)) moving.fly(around(cell.query, cell.key, room.width / moving.view.scale, room, size))
  }

  // Choose what is at a point: the cell where it can be told, else the strongest link of the bucket.
  async take(px: number, py: number): Promise<void> {
    const at = this.looking.sight.at(px, py)
    if (!at) return
    if (at.rows[1] - at.rows[0] === 1 && at.keys[1] - at.keys[0] === 1) return this.choose({ query: at.rows[0], key: at.keys[0] })
    if (!this.looking.call!.kept) return
    const { links } = await this.#map!.links(at.rows, at.keys, 1)
    if (links.length) this.choose(links[0])
  }

  // Go to a token: as a query to what it looks at most, as a key to who looks at it most.
  async visit(token: number, asKey: boolean): Promise<void> {
    const map = this.#map
    if (!map) return
    const { size, call, names } = this.looking, { queries, keys } = size, query = Math.max(0, Math.min(token - names.slot(0), queries - 1))
    const at = asKey || !call!.kept ? Math.min(token, keys - 1) : query
    if (!call!.kept) return this.go({ query, key: at })
    const { links } = asKey ? await map.links([0, queries], [at, at + 1], 1) : await map.links([at, at + 1], [0, keys], 1)
    this.go(links[0] ?? (asKey ? { query, key: at } : { query: at, key: Math.min(names.slot(at), keys - 1) }))
  }

  // Arrows pan, and where cells carry numbers they move the choice.
  arrow(across: number, down: number): void {
    const { moving, size } = this.looking, { cell } = this.looking.explorer
    if (moving.view.scale < NUMBERS || !cell) return moving.pan(across, down)
    const to = { query: Math.min(Math.max(cell.query + down, 0), size.queries - 1), key: Math.min(Math.max(cell.key + across, 0), size.keys - 1) }
    this.choose(to)
    if (!moving.inView(to)) moving.pan(across, down)
  }
}
