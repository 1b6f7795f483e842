// What a sparse pattern would lose of the open text, which pairs it gives up, and what is said under it: as the server computes it.
import { read, write, type Pattern } from '../../parts/pattern'
import { shows } from '../../parts/save'
import type { Shift } from '../../parts/shifts'
import type { Explorer } from '../../state/explorer.svelte'
import { events } from '../../wire/events'
import { line } from '../../wire/job.svelte'
import { json, message, post, type Source } from '../../wire/source'
import type { Certificate, Kind } from '../../wire/trace'

export interface Loss { layer: number; kind: Kind; share: number; mean: number[]; worst: number[]; worst_row: number[] }
export interface Applied { divergence: number; divergence_mean: number; next: { token: string; p: number }[]; changes: Shift[]; certificate: Certificate }
export interface Found {
  pattern: string; share: number; mean: number; applied: Applied | null; calls: Loss[]; why: string
  top: { layer: number; kind: Kind; head: number; mean: number }
}
export interface Fate { pairs: Uint8Array; lost: number[] }   // of every pair 0 hidden, 1 given up, 2 kept; of every row its lost mass

export const FIRST: Pattern = { kind: 'window', size: 4, global: 0 }
const AT_ONCE = 256    // tokens up to which a pattern is tried without being asked for
const PAUSE = 80       // milliseconds that a slider rests before anything is asked

export class Sparing {
  known = $state.raw<{ of: Source; found: Found } | null>(null)
  fate = $state.raw<{ of: Source; pattern: string; call: number; head: number; fate: Fate } | null>(null)
  usual = $state.raw<{ of: Source; found: Found[] } | null>(null)
  busy = $state(false)
  comparing = $state(false)
  error = $state('')

  live = $derived.by(() => !this.explorer.exported && !this.explorer.shipped && this.explorer.source !== null)
  tokens = $derived.by(() => Math.max(1, ...this.explorer.calls.map((call) => call.keys)))
  pattern = $derived.by<Pattern>(() => read(this.explorer.more['sparse.pattern'] ?? '') ?? FIRST)
  written = $derived.by(() => write(this.pattern))
  short = $derived.by(() => this.tokens <= AT_ONCE)
  // What was found of the open text, if it is of the chosen pattern; and while that is computed what was found before.
  last = $derived.by(() => (this.known && this.known.of === this.explorer.source ? this.known.found : null))
  now = $derived.by(() => (this.last?.pattern === this.written ? this.last : null))
  pairs = $derived.by(() => {
    const { of, pattern, call, head, fate } = this.fate ?? {}, { source, opened } = this.explorer
    return fate && of === source && pattern === this.written && call === opened?.call.index && head === opened?.head ? fate : null
  })
  beside = $derived.by(() => (this.usual && this.usual.of === this.explorer.source ? this.usual.found : []))
  losses = $derived.by(() => new Map(this.last?.calls.map((loss) => [`${loss.kind}.${loss.layer}`, loss])))

  #running: AbortController | null = null
  #comparing: AbortController | null = null
  #looked = 0

  constructor(private readonly explorer: Explorer) {
    shows(explorer, 'sparse', () => this.now && {
      path: `api/sparsity/${encodeURIComponent(explorer.source!.trace.id)}`, asked: { pattern: this.written }, view: { screen: 'heads' },
    })
  }

  choose(change: Partial<Pattern>): void {
    this.explorer.more['sparse.pattern'] = write({ ...this.pattern, ...change })
  }

  async compute(pause = 0): Promise<void> {
    this.#running?.abort()
    const { signal } = (this.#running = new AbortController()), source = this.explorer.source!, pattern = this.written
    this.error = ''
    this.busy = true
    try {
      await rested(pause, signal)
      const found = await json<Found>('api/sparsity', { ...post({ id: source.trace.id, pattern }), signal })
      if (!signal.aborted) this.known = { of: source, found }
    } catch (e) {
      if (!signal.aborted) this.error = line(e, this.explorer)
    } finally {
      if (!signal.aborted) this.busy = false
    }
  }

  // The pairs of the open head.
  async look(): Promise<void> {
    const wanted = ++this.#looked, { source, opened } = this.explorer, pattern = this.written
    if (!source || !opened || !this.short) return
    const call = opened.call.index, { head } = opened
    try {
      await rested(PAUSE)
      if (wanted !== this.#looked) return
      const path = `api/sparsity/${encodeURIComponent(source.trace.id)}/heads/${call}/${head}?${new URLSearchParams({ pattern })}`
      const { body, tensors } = await message<{ lost: number[] }>(path)
      if (wanted === this.#looked) this.fate = { of: source, pattern, call, head, fate: { pairs: tensors.pairs.data as Uint8Array, lost: body.lost } }
    } catch (e) {
      if (wanted === this.#looked) this.error = line(e, this.explorer)
    }
  }

  renew(): void {
    if (this.short) void this.compute(this.known ? PAUSE : 0)
    else this.#running?.abort()
  }

  // A few usual patterns, one after the other.
  async compare(): Promise<void> {
    this.#comparing?.abort()
    const { signal } = (this.#comparing = new AbortController()), of = this.explorer.source!
    this.usual = { of, found: [] }
    this.comparing = true
    try {
      for await (const { body } of events('api/sparsity/usual', { ...post({ id: of.trace.id }), signal })) {
        if (!signal.aborted) this.usual = { of, found: [...this.usual!.found, body as Found] }
      }
    } catch (e) {
      if (!signal.aborted) this.error = line(e, this.explorer)
    } finally {
      if (!signal.aborted) this.comparing = false
    }
  }

  stop(): void {
    this.#running?.abort()
    this.#comparing?.abort()
    this.busy = this.comparing = false
  }
}

// Waits; whoever stops asking meanwhile asks nothing.
function rested(pause: number, signal?: AbortSignal): Promise<void> {
  return new Promise((done, gone) => {
    const waiting = setTimeout(done, pause)
    signal?.addEventListener('abort', () => { clearTimeout(waiting); gone(new DOMException('', 'AbortError')) })
  })
}
