// What the page knows and what is looked at; components read it and call its verbs.
import { map, type Stage } from './attention'
import { read, SCALES, write, type Cell, type Scale } from './hash'
import type { Theme } from './palette'
import * as server from './server'
import { summary, type Statistic, type Summary } from './statistics'
import { axes, decode, heads, keys, queries, type Kind, type Trace } from './wire'
import { WORDS, type Language } from './words'

export const EXAMPLES = ['I love you', '小沈阳江西演唱会邀请了，', 'The cat chased the mouse', 'Once upon a time']

export class Explorer {
  text = $state('')
  model = $state('')
  models = $state<string[]>([])
  languages = $state.raw<string[]>([])   // that the model writes, where it translates
  to = $state('')
  language = $state<Language>('en')
  theme = $state<Theme>('light')
  trace = $state.raw<Trace | null>(null)
  summaries = $state.raw<(Summary | undefined)[][]>([])
  busy = $state(false)
  error = $state('')

  kind = $state<Kind | null>(null)       // null: the model has one
  layer = $state(0)
  head = $state(0)
  stage = $state<Stage>('weight')
  scale = $state<Scale>('linear')
  statistic = $state<Statistic>('entropy')
  cell = $state<Cell | null>(null)       // kept until Esc
  hover = $state.raw<Cell | null>(null)  // under the pointer
  allProducts = $state(false)

  readonly exported: boolean
  words = $derived(WORDS[this.language])
  calls = $derived(this.trace?.calls.filter((c) => this.kind === null || c.kind === this.kind) ?? [])
  call = $derived(this.calls[this.layer] ?? null)
  axes = $derived(this.trace ? axes(this.trace, this.kind) : [[], []] as [string[], string[]])
  shown = $derived(this.hover ?? this.cell)
  numbers = $derived(this.call ? map(this.call, this.head, this.stage) : new Float64Array())
  weights = $derived(this.call ? map(this.call, this.head, 'weight') : new Float64Array())

  #running: AbortController | null = null

  constructor(private readonly embedded: string | null) {
    this.exported = embedded !== null
    const wanted = read(location.hash)
    this.language = wanted.language ?? (navigator.language.startsWith('zh') ? 'zh' : 'en')
    this.theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'
    Object.assign(this, Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)))
  }

  async start(): Promise<void> {
    if (this.embedded !== null) {
      try {
        this.#open(decode(JSON.parse(this.embedded)))
      } catch (e) {
        this.error = this.words.damaged((e as Error).message)
      }
      return
    }
    try {
      this.models = await server.models()
      if (!this.models.includes(this.model)) this.model = this.models[0] ?? ''
    } catch (e) {
      this.error = this.#line(e)
      return
    }
    await this.run(this.text || EXAMPLES[0])
  }

  async run(text: string): Promise<void> {
    this.text = text
    this.#running?.abort()
    const running = (this.#running = new AbortController())
    this.busy = true
    this.error = ''
    try {
      const { trace, languages, to } = await server.trace(text, this.model, this.to, running.signal)
      this.languages = languages
      this.to = to
      this.#open(trace)
    } catch (e) {
      if (running.signal.aborted) return
      this.trace = null
      this.error = this.#line(e)
    } finally {
      if (this.#running === running) this.busy = false
    }
  }

  // Ask another model, or a translator for another language.
  async change(model: string, to = ''): Promise<void> {
    this.model = model
    this.to = to
    await this.run(this.text)
  }

  choose(layer: number, head: number): void {
    if (!this.trace) return
    this.layer = clamp(layer, this.calls.length)
    this.head = clamp(head, heads(this.calls[this.layer]))
    this.#fit()
  }

  // Open another kind of attention, at its last token.
  turn(kind: Kind): void {
    if (!this.trace?.translation || kind === this.kind) return
    this.kind = kind
    if (kind === 'cross' && this.statistic === 'distance') this.statistic = 'entropy'
    this.cell = this.hover = null
    this.choose(this.layer, this.head)
    this.look(queries(this.call!) - 1)
    void this.#summarise(this.trace)
  }

  keep(query: number, key: number): void {
    if (!this.call) return
    this.cell = { query: clamp(query, queries(this.call)), key: clamp(key, keys(this.call)) }
    this.hover = null
  }

  // Keep what a token looks at most.
  look(query: number): void {
    if (this.call) this.keep(query, this.most(query))
  }

  // What a token looks at most, besides where idle heads rest: the first token of a decoder, the end mark of a source.
  most(query: number): number {
    const count = keys(this.call!), source = this.kind === 'encoder' || this.kind === 'cross'
    const first = source ? 0 : Math.min(1, query, count - 1), last = source && count > 1 ? count - 1 : count
    let key = first
    for (let j = first; j < last; j++) if (this.weight(query, j) > this.weight(query, key)) key = j
    return key
  }

  // Who looks most at a key.
  admirer(key: number): number {
    let query = 0
    for (let i = 0; i < queries(this.call!); i++) if (this.weight(i, key) > this.weight(query, key)) query = i
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
    return this.call ? this.weights[query * keys(this.call) + key] || 0 : 0
  }

  #open(trace: Trace): void {
    // Another text starts at its last token; the first one at what the address says.
    const read = (t: Trace) => [...(t.translation?.tokens ?? []), ...t.tokens].join('\n')
    if (this.trace && read(this.trace) !== read(trace)) this.cell = null
    this.trace = trace
    this.kind = trace.translation ? this.kind ?? 'cross' : null
    if (this.exported) this.model = trace.model.name
    this.layer = clamp(this.layer, this.calls.length)
    this.head = clamp(this.head, heads(this.calls[this.layer]))
    this.hover = null
    const call = this.calls[this.layer]
    if (!this.cell || this.cell.query >= queries(call) || this.cell.key >= keys(call)) this.look(queries(call) - 1)
    void this.#summarise(trace)
  }

  #fit(): void {
    if (this.cell) this.keep(this.cell.query, this.cell.key)
  }

  // Head by head between frames: a long text has many millions of weights to sum.
  async #summarise(trace: Trace): Promise<void> {
    const calls = this.calls, kind = this.kind
    const found: (Summary | undefined)[][] = calls.map((call) => new Array(heads(call)).fill(undefined))
    this.summaries = found
    let last = performance.now()
    for (const [n, call] of calls.entries()) {
      for (let head = 0; head < heads(call); head++) {
        found[n][head] = summary(call, head)
        if (performance.now() - last < 30) continue
        this.summaries = found.map((row) => [...row])
        await new Promise((resolve) => setTimeout(resolve))
        if (this.trace !== trace || this.kind !== kind) return
        last = performance.now()
      }
    }
    this.summaries = found.map((row) => [...row])
  }

  #line(e: unknown): string {
    if (e instanceof server.ServerError) return e.line ?? this.words.unreachable
    return this.words.damaged((e as Error).message)
  }
}

const clamp = (index: number, length: number) => Math.min(Math.max(index, 0), length - 1)
