// What is changed, what that did to the prediction, and what muting each head would do.
import { shows } from '../../parts/save'
import type { Shift } from '../../parts/shifts'
import type { Explorer } from '../../state/explorer.svelte'
import type { Cell } from '../../state/hash'
import { events } from '../../wire/events'
import { answer, json, open, post, ServerError, type Source } from '../../wire/source'
import { group, type Candidate, type Head } from '../../wire/trace'
import { join, split, toggled, type Place } from './change'
import type { Effect } from './ranks'
import { shown } from './shown'

interface Pass { id: string; text: string; tokens: string[]; token: number }
export interface Found { made: string[]; before: Pass; after: Pass; changes: Shift[]; divergence: number }
export const VIEWS = ['before', 'after', 'difference'] as const
export type View = (typeof VIEWS)[number]

const BEST = 8            // likeliest tokens that are shown, as many as the server compares
const AT_ONCE = 20_000    // heads times tokens that are ranked without being asked for

export class Supposition {
  found = $state.raw<Found | null>(null)      // both passes side by side
  altered = $state.raw<Source | null>(null)   // the changed pass
  head = $state.raw<Head | null>(null)        // the chosen head in it
  usual = $state.raw<Candidate[]>([])         // what is likeliest while nothing is changed
  busy = $state(false)
  error = $state('')
  effects = $state.raw<Effect[]>([])
  ranking = $state(false)
  refused = $state('')                        // why there is no ranking
  fixed = $state<string | null>('')           // why nothing can be changed; null until that is known
  wanted = $state<View>('before')             // the map that was chosen
  spot = $state.raw<Cell | null>(null)        // the chosen edge

  changes = $derived.by(() => split(this.explorer.more['whatif.changes'] ?? ''))
  // The token whose next one is asked for; null: the last, which both texts have.
  after = $derived.by(() => {
    const given = this.explorer.more['whatif.after'] ?? ''
    return /^\d{1,9}$/.test(given) && Number(given) < (this.explorer.trace?.tokens.length ?? 0) ? Number(given) : null
  })
  here = $derived.by(() => !this.explorer.exported && !this.explorer.shipped && this.explorer.source !== null)
  live = $derived.by(() => this.here && this.fixed === '')
  count = $derived.by(() => this.explorer.trace?.calls.reduce((n, call) => n + call.heads, 0) ?? 0)
  place = $derived.by<Place>(() => {
    const { calls, layer, head, kind } = this.explorer, call = calls[layer]
    return { kind, layer: call.layer, head, group: group(call, head) }
  })
  // Whether both passes went through as many tokens, so that an edge is the same in both.
  alike = $derived.by(() => {
    const a = this.explorer.trace, b = this.altered?.trace
    return !a || !b || (a.tokens.length === b.tokens.length && a.translation?.tokens.length === b.translation?.tokens.length)
  })
  // The head of the changed pass, if it is the one that is open.
  other = $derived.by(() => (this.head?.call.index === this.explorer.call?.index && this.head?.head === this.explorer.opened?.head ? this.head : null))
  view = $derived.by<View>(() => (!this.other || (this.wanted === 'difference' && !this.alike) ? 'before' : this.wanted))

  // Whether the map that is shown has the edges of the changed text, which alone can be cut.
  cuttable = $derived.by(() => this.alike || this.view === 'after')

  #running: AbortController | null = null
  #counting: AbortController | null = null
  #looked = 0

  constructor(private readonly explorer: Explorer) {
    shows(explorer, 'whatif', () => shown(this, explorer.source!, explorer.calls[explorer.layer]))
  }

  set(changes: string[]): void {
    this.explorer.more['whatif.changes'] = join(changes)
  }

  toggle(change: string): void {
    this.set(toggled(this.changes, change))
  }

  ask(after: string): void {
    this.explorer.more['whatif.after'] = after
  }

  // Whether the model can read this text with changes at all, before anybody tries.
  async check(): Promise<void> {
    const source = this.explorer.source!
    this.fixed = null
    const why = await json(`api/suppositions/${encodeURIComponent(source.trace.id)}`).then(() => '', (e: unknown) => this.#line(e))
    if (source === this.explorer.source) this.fixed = why
  }

  // Read the text once more with the changes, where there are any.
  async suppose(): Promise<void> {
    this.#running?.abort()
    const { signal } = (this.#running = new AbortController())
    const source = this.explorer.source!, changes = this.changes
    this.error = ''
    this.busy = changes.length > 0
    try {
      const usual = await source.next(this.after ?? source.trace.tokens.length - 1, BEST)
      if (signal.aborted) return
      this.usual = usual.slice(0, BEST)
      if (!changes.length) return this.#show(null)
      const found = await json<Found>('api/suppositions', { ...post(this.#asked(source, { changes })), signal })
      if (found.before.id !== source.trace.id) void answer(`api/traces/${found.before.id}`, { method: 'DELETE' }).catch(() => undefined)
      const altered = await open(found.after.id, signal), head = await this.#opened(altered)
      if (signal.aborted) altered.close()
      else this.#show(found, altered, head)
    } catch (e) {
      if (signal.aborted) return
      this.#show(null)
      this.error = this.#line(e)
    } finally {
      if (!signal.aborted) this.busy = false
    }
  }

  // Load what the changed map of the open head is computed from.
  async look(): Promise<void> {
    const wanted = ++this.#looked
    const found = this.altered && await this.#opened(this.altered)
    if (wanted === this.#looked) this.head = found
  }

  // Mute every head in turn.
  async rank(): Promise<void> {
    this.stop()
    const { signal } = (this.#counting = new AbortController())
    this.effects = []
    this.refused = ''
    this.ranking = true
    try {
      for await (const { body } of events('api/suppositions/ranks', { ...post(this.#asked(this.explorer.source!)), signal })) {
        if (!signal.aborted) this.effects = [...this.effects, body as Effect]
      }
    } catch (e) {
      if (!signal.aborted) this.refused = this.#line(e)
    } finally {
      if (!signal.aborted) this.ranking = false
    }
  }

  // Another text or token: a short one is ranked at once.
  renew(): void {
    this.stop()
    this.effects = []
    this.refused = ''
    const tokens = Math.max(...this.explorer.trace!.calls.map((call) => call.keys))
    if (this.count * tokens <= AT_ONCE) void this.rank()
  }

  stop(): void {
    this.#counting?.abort()
    this.ranking = false
  }

  close(): void {
    this.stop()
    this.#running?.abort()
    this.altered?.close()
  }

  #asked(source: Source, more: object = {}): object {
    const { id, to } = source.trace
    return { id, ...(to && { to }), ...(this.after !== null && { after: this.after }), ...more }
  }

  async #opened(source: Source): Promise<Head | null> {
    const { calls, layer, head: chosen, long } = this.explorer, call = source.trace.calls[calls[layer]?.index]
    return call?.kept && !long ? await source.head(call, Math.min(chosen, call.heads - 1)).catch(() => null) : null
  }

  // All at once: a table, a map and its labels are of the same pass.
  #show(found: Found | null, altered: Source | null = null, head: Head | null = null): void {
    this.#looked++
    this.altered?.close()
    this.altered = altered
    this.head = head
    this.found = found
    if (altered && !this.other) void this.look()   // another head was opened meanwhile
  }

  #line(e: unknown): string {
    return e instanceof ServerError ? e.line ?? this.explorer.words.unreachable : this.explorer.words.damaged((e as Error).message)
  }
}
