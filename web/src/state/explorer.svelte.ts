// What the page knows and what is looked at; components read it and call its verbs.
import type { Theme } from '../parts/palette'
import type { Shown } from '../parts/save'
import type { Statistic } from '../parts/statistics'
import { map, type Stage } from '../wire/attention'
import * as source from '../wire/source'
import { axes, type Head, type Kind } from '../wire/trace'
import { EXAMPLES } from './examples'
import { read, SCALES, write, type Cell, type Scale, type Written } from './hash'
import { TEXTLESS, type Screen } from './screens'
import { WORDS, type Language } from './words'

const FIRST: Screen[] = ['walk', 'heads']   // screens that need no more than the trace in the page
export const LONGEST = 2048   // tokens of a head that is drawn whole; a longer one is seen on the map

export class Explorer {
  text = $state('')
  written = $state.raw<Written | null>(null)   // where the text is what a film wrote
  model = $state('')
  models = $state<string[]>([])
  files = $state<string[]>([])           // traces that the server was started with
  to = $state('')
  language = $state<Language>('en')
  theme = $state<Theme>('light')
  source = $state.raw<source.Source | null>(null)
  opened = $state.raw<Head | null>(null) // what the chosen head's map is computed from
  busy = $state(false)
  error = $state('')
  shipped = $state(false)                // what is shown came with the page, while the server is asked

  screen = $state<Screen>('walk')
  kind = $state<Kind | null>(null)       // null: the model has one
  layer = $state(0)
  head = $state(0)
  stage = $state<Stage>('weight')
  scale = $state<Scale>('linear')
  statistic = $state<Statistic>('entropy')
  cell = $state<Cell | null>(null)       // kept until Esc
  hover = $state.raw<Cell | null>(null)  // under the pointer
  allProducts = $state(false)
  more = $state<Record<string, string>>({})   // what screens keep in the address

  saved = $state.raw<Shown | null>(null)      // what a screen of no text has to be saved

  readonly exported: boolean
  words = $derived(WORDS[this.language])
  trace = $derived(this.source?.trace ?? null)
  filed = $derived(this.files.includes(this.model))   // a saved trace is chosen, in the place of a model
  calls = $derived(this.trace?.calls.filter((c) => this.kind === null || c.kind === this.kind) ?? [])
  call = $derived(this.opened?.call ?? null)
  long = $derived(this.calls.some((c) => c.keys > LONGEST))
  axes = $derived(this.trace ? axes(this.trace, this.kind) : [[], []] as [string[], string[]])
  shown = $derived(this.hover ?? this.cell)
  numbers = $derived(this.opened ? map(this.opened, this.stage) : new Float64Array())
  weights = $derived(this.opened ? map(this.opened, 'weight') : new Float64Array())

  #running: AbortController | null = null
  #wanted = 0   // counts the heads that were asked for: a late answer to an earlier one is dropped

  // Traces in the page: the one that an exported page is about, or the one that is shown until the server answers.
  constructor(private readonly embedded: string | null, private readonly first: string | null = null) {
    this.exported = embedded !== null
    const wanted = read(location.hash)
    this.language = wanted.language ?? (navigator.language.startsWith('zh') ? 'zh' : 'en')
    this.theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'
    Object.assign(this, Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)))
    addEventListener('pagehide', () => this.source?.close())
  }

  async start(): Promise<void> {
    if (this.embedded !== null) {
      await this.#asked(async () => await this.#show(new source.Embedded(this.embedded!)))
      return
    }
    const open = !(this.text || this.model || this.cell || this.layer || this.head)
    this.text ||= EXAMPLES[0].text
    if (this.first !== null) await this.#meanwhile(new source.Embedded(this.first), open)
    await this.#asked(async (signal) => {
      const { models, files } = await source.offer(signal)
      this.models = models
      this.files = files
      const wanted = this.model
      if (!models.includes(wanted) && !files.includes(wanted)) this.model = files[0] ?? models[0] ?? ''
      if (wanted && wanted !== this.model) throw new source.ServerError(this.words.absent(wanted, models[0] ?? ''))
      await (this.filed ? this.open(this.model) : this.run(this.text, this.written))
    })
  }

  // Show the trace that came with the page, unless the address asks for another one or for a screen that needs the server.
  async #meanwhile(found: source.Source, open: boolean): Promise<void> {
    const { text, model } = found.trace
    if (!FIRST.includes(this.screen) || (!open && (this.text !== text || this.model !== model.name))) return
    this.shipped = true
    await this.#show(found)
  }

  // Wait no longer; what was shown before stays.
  cancel(): void {
    this.#running?.abort()
    this.busy = false
  }

  // Have the model read a text; a saved trace reads none, so in its place the first model does.
  async run(text: string, written: Written | null = null): Promise<void> {
    this.text = text
    this.written = null
    if (this.filed) this.model = this.models[0] ?? ''
    await this.#asked(async (signal) => {
      await this.#show(await source.read(text, this.model, this.to, signal, written?.ids))
      this.written = written
      if (written && !this.trace!.translation) this.text = this.trace!.text
    })
  }

  // Show a saved trace, or one that a job of the server made, such as a film.
  async open(id: string): Promise<void> {
    await this.#asked(async (signal) => await this.#show(await source.open(id, signal)))
  }

  // Ask another model, or a translator for another language, or open a saved trace.
  async change(model: string, to = ''): Promise<void> {
    this.model = model
    this.to = to
    this.written = null
    await (this.filed ? this.open(model) : this.run(this.text))
  }

  choose(layer: number, head: number): void {
    if (!this.calls.length) return
    this.layer = clamp(layer, this.calls.length)
    this.head = clamp(head, this.calls[this.layer].heads)
    const wanted = this.#wanted + 1   // a text that is being read meanwhile goes on being read
    void this.#load().catch((e) => { if (wanted === this.#wanted) this.#fail(e) })
  }

  // Open another kind of attention, at its last token.
  turn(kind: Kind): void {
    if (!this.trace?.translation || kind === this.kind) return
    this.kind = kind
    if (kind === 'cross' && this.statistic === 'distance') this.statistic = 'entropy'
    this.cell = this.hover = null
    this.choose(this.layer, this.head)
  }

  keep(query: number, key: number): void {
    if (!this.call) return
    this.cell = { query: clamp(query, this.call.queries), key: clamp(key, this.call.keys) }
    this.hover = null
  }

  // Keep what a token looks at most.
  look(query: number): void {
    if (this.call) this.keep(query, this.most(query))
  }

  // What a token looks at most, besides where idle heads rest: the first token of a decoder, the end mark of a source.
  most(query: number): number {
    const count = this.call!.keys, source = this.kind === 'encoder' || this.kind === 'cross'
    const first = source ? 0 : Math.min(1, query, count - 1), last = source && count > 1 ? count - 1 : count
    let key = first
    for (let j = first; j < last; j++) if (this.weight(query, j) > this.weight(query, key)) key = j
    return key
  }

  // Who looks most at a key.
  admirer(key: number): number {
    let query = 0
    for (let i = 0; i < this.call!.queries; i++) if (this.weight(i, key) > this.weight(query, key)) query = i
    return query
  }

  nextScale(): void {
    const usable = SCALES.filter((s) => s !== 'log' || this.stage === 'weight')
    this.scale = usable[(usable.indexOf(this.scale) + 1) % usable.length]
  }

  show(stage: Stage): void {
    this.stage = stage
    if (this.scale === 'log' && stage !== 'weight') this.scale = 'linear'
  }

  // The address of what is looked at.
  get hash(): string {
    return write(this)
  }

  weight(query: number, key: number): number {
    return this.call ? this.weights[query * this.call.keys + key] || 0 : 0
  }

  // Does something that may fail or be overtaken by the next thing that is asked, and shows its one line.
  async #asked(act: (signal: AbortSignal) => Promise<void>): Promise<void> {
    this.#running?.abort()
    const running = (this.#running = new AbortController())
    this.busy = true
    this.error = ''
    try {
      await act(running.signal)
    } catch (e) {
      if (!running.signal.aborted) this.#fail(e)
    } finally {
      if (this.#running === running) this.busy = false
    }
  }

  #fail(e: unknown): void {
    this.source?.close()
    this.source = this.opened = null
    this.shipped = false
    this.error = this.#line(e)
  }

  async #show(found: source.Source): Promise<void> {
    const before = this.source
    const said = ({ trace }: source.Source) => [...(trace.translation?.tokens ?? []), ...trace.tokens].join('\n')
    // Another text starts at its last token; the first one at what the address says.
    if (before && said(before) !== said(found)) this.cell = null
    if (before && before.trace.id !== found.trace.id) before.close()
    const { trace } = found
    const same = before && said(before) === said(found) && before.trace.model.name === trace.model.name
    if (!same) this.opened = null
    if (before) this.shipped = false
    this.hover = null
    this.source = found
    this.to = trace.to
    this.kind = trace.translation ? this.kind ?? 'cross' : null
    if (this.exported) this.model = trace.model.name
    this.layer = clamp(this.layer, this.calls.length)
    this.head = clamp(this.head, this.calls[this.layer].heads)
    if (this.long && !TEXTLESS.includes(this.screen)) this.screen = 'map'
    await this.#load()
  }

  // The numbers of the chosen head; the one before stays on the page until they are here.
  async #load(): Promise<void> {
    const wanted = ++this.#wanted, call = this.calls[this.layer]
    if (!this.source || this.long || !call.kept) {
      this.opened = null
      return
    }
    const found = await this.source.head(call, this.head)
    if (wanted !== this.#wanted) return
    this.opened = found
    if (!this.cell || this.cell.query >= call.queries || this.cell.key >= call.keys) this.look(call.queries - 1)
    else this.keep(this.cell.query, this.cell.key)
  }

  #line(e: unknown): string {
    if (e instanceof source.ServerError) return e.line ?? this.words.unreachable
    return this.words.damaged((e as Error).message)
  }
}

const clamp = (index: number, length: number) => Math.min(Math.max(index, 0), length - 1)
