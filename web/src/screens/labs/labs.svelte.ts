// The labs of the server: what each says, what was found so far, and the one that runs.
import { FORMATS, type Shown } from '../../parts/save'
import type { Explorer } from '../../state/explorer.svelte'
import type { Chart, Pair } from '../../parts/charts'
import { events } from '../../wire/events'
import { json, post, ServerError } from '../../wire/source'
import type { Table } from './soft'

export interface Lab { name: string; title: Pair; claim: Pair; source: string; command: string; table: Table | null; seconds: number | null }
export interface Found { charts: Chart[]; conclusion: Pair; numbers: Record<string, number>; measured?: Record<string, number>; seconds: number }

export class Laboratory {
  labs = $state.raw<Lab[]>([])
  machine = $state.raw({ name: '', threads: 0 })   // on which they run
  found = $state<Record<string, Found>>({})
  running = $state<string | null>(null)   // the lab that runs, or waits for another one's end
  elapsed = $state<number | null>(null)   // seconds since it began; null while it waits
  error = $state('')

  open = $derived.by(() => this.labs.find(({ name }) => name === this.explorer.more['labs.name']) ?? null)
  finding = $derived.by(() => (this.open ? this.found[this.open.name] ?? null : null))

  saved = $derived.by<Shown | null>(() => this.finding && { path: `api/labs/${encodeURIComponent(this.open!.name)}`, asked: {}, view: {}, formats: FORMATS })

  #running: AbortController | null = null

  constructor(private readonly explorer: Explorer) {}

  async list(): Promise<void> {
    try {
      const told = await json<{ labs: Lab[]; machine: { name: string; threads: number } }>('api/labs')
      this.labs = told.labs
      this.machine = told.machine
      this.known()
    } catch (e) {
      this.error = this.#line(e)
    }
  }

  choose(name: string): void {
    this.explorer.more['labs.name'] = name
    this.error = ''
    this.known()
  }

  // The lab above or below.
  step(by: number): void {
    const at = this.open ? this.labs.indexOf(this.open) + by : by > 0 ? 0 : this.labs.length - 1
    if (this.labs[at]) this.choose(this.labs[at].name)
  }

  // What the server has found already costs nothing to ask for.
  known(): void {
    if (this.open && this.open.seconds !== null && !this.finding && !this.running) void this.run()
  }

  async run(): Promise<void> {
    const name = this.open?.name
    if (!name || this.running) return
    const { signal } = (this.#running = new AbortController())
    this.running = name
    this.error = ''
    try {
      for await (const { name: kind, body } of events('api/labs', { ...post({ name }), signal })) {
        if (signal.aborted) return
        if (kind === 'elapsed') this.elapsed = (body as { seconds: number }).seconds
        else this.found[name] = body as Found
      }
    } catch (e) {
      if (!signal.aborted) this.error = this.#line(e)
    } finally {
      if (!signal.aborted) this.running = this.elapsed = null
    }
  }

  stop(): void {
    this.#running?.abort()
    this.running = this.elapsed = null
  }

  #line(e: unknown): string {
    return e instanceof ServerError ? e.line ?? this.explorer.words.unreachable : String(e)
  }
}
