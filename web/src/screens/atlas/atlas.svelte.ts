// The atlases that the server was started with, and the scores that were asked for.
import type { Shown } from '../../parts/save'
import type { Explorer } from '../../state/explorer.svelte'
import { json, ServerError } from '../../wire/source'
import type { Kind } from '../../wire/trace'
import { COLUMNS, type Atlas, type Column, type Gold, type Line } from './lines'

export class Atlases {
  all = $state.raw<Atlas[] | null>(null)   // null until the server has said them
  lines = $state.raw<Line[]>([])
  #gold = $state.raw<Gold | null>(null)
  error = $state('')
  #shown = $state('')                      // whose lines are here

  open = $derived.by(() => this.all?.find(({ name }) => name === this.explorer.more['atlas.name']) ?? this.all?.[0] ?? null)
  score = $derived.by(() => {
    const scores = this.open?.scores ?? []
    return scores.find(({ name }) => name === this.explorer.more['atlas.score']) ?? scores.find(({ name }) => name === 'induction') ?? scores[0] ?? null
  })
  kinds = $derived.by(() => [...new Set(this.open?.rows.map(({ kind }) => kind))])
  kind = $derived.by(() => this.kinds.find((kind) => kind === this.explorer.more['atlas.kind']) ?? this.kinds[0] ?? '')
  rows = $derived.by(() => this.open?.rows.filter(({ kind }) => kind === this.kind) ?? [])
  shown = $derived.by(() => (this.#current() ? this.lines.filter(({ kind }) => kind === this.kind) : []))
  gold = $derived.by(() => (this.#current() && this.#gold?.chosen.kind === this.kind ? this.#gold : null))
  by = $derived.by<Column>(() => COLUMNS.find((column) => column === this.explorer.more['atlas.by']?.replace('-', '')) ?? 'mean')
  turned = $derived.by(() => this.explorer.more['atlas.by']?.startsWith('-') ?? false)
  at = $derived.by(() => {
    const [layer, head] = (this.explorer.more['atlas.at'] ?? '').split('.').map(Number)
    return this.rows[layer] && head < this.rows[layer].heads ? { layer, head } : { layer: 0, head: 0 }
  })
  // Whether the open text was read by this model, or else can be.
  here = $derived.by(() => this.open !== null && this.explorer.trace?.model.name === this.open.model)
  offered = $derived.by(() => this.here || (this.open !== null && this.explorer.models.includes(this.open.model)))

  saved = $derived.by<Shown | null>(() => (this.#current() ? { path: this.#path(), asked: {}, view: {}, formats: ['svg', 'png', 'json'] } : null))

  #wanted = 0

  constructor(private readonly explorer: Explorer) {}

  async list(): Promise<void> {
    try {
      this.all = (await json<{ atlases: Atlas[] }>('api/atlases')).atlases
    } catch (e) {
      this.error = this.#line(e)
    }
  }

  // The lines of the chosen score.
  async load(): Promise<void> {
    if (!this.open || !this.score) return
    const wanted = ++this.#wanted, path = this.#path()
    this.error = ''
    try {
      const { lines, gold } = await json<{ lines: Line[]; gold?: Gold }>(path)
      if (wanted !== this.#wanted) return
      this.lines = lines
      this.#gold = gold ?? null
      this.#shown = path
    } catch (e) {
      if (wanted === this.#wanted) this.error = this.#line(e)
    }
  }

  ask(name: 'name' | 'score' | 'kind' | 'by' | 'at', value: string): void {
    this.explorer.more[`atlas.${name}`] = value
  }

  next(): void {
    const scores = this.open?.scores ?? [], at = scores.findIndex(({ name }) => name === this.score?.name)
    if (scores.length) this.ask('score', scores[(at + 1) % scores.length].name)
  }

  // A column, or the same one the other way round.
  sort(column: Column): void {
    this.ask('by', this.by === column && !this.turned ? `-${column}` : column)
  }

  choose(layer: number, head: number): void {
    const row = this.rows[Math.min(Math.max(layer, 0), this.rows.length - 1)]
    this.ask('at', `${this.rows.indexOf(row)}.${Math.min(Math.max(head, 0), row.heads - 1)}`)
  }

  // Show a head on the screen of heads, of the open text or of the one that its model then reads.
  enter(layer: number, head: number): void {
    this.choose(layer, head)
    if (!this.offered) return
    const { explorer } = this
    explorer.screen = 'heads'
    if (this.here) {
      explorer.turn(this.kind as Kind)
      explorer.choose(layer, head)
    } else {
      Object.assign(explorer, { layer, head })
      void explorer.change(this.open!.model)
    }
  }

  // Whether the lines are those of what is chosen.
  #current(): boolean {
    return this.open !== null && this.score !== null && this.#shown === this.#path()
  }

  #path(): string {
    return `api/atlases/${encodeURIComponent(this.open!.name)}/scores/${this.score!.name}`
  }

  #line(e: unknown): string {
    return e instanceof ServerError ? e.line ?? this.explorer.words.unreachable : String(e)
  }
}
