// What the page knows and what is looked at; components read it and call its verbs.
import { map, type Stage } from './attention'
import { read, SCALES, write, type Cell, type Scale } from './hash'
import type { Theme } from './palette'
import * as server from './server'
import { summary, type Statistic, type Summary } from './statistics'
import { decode, heads, keys, queries, type Trace } from './wire'
import { WORDS, type Language } from './words'

export const EXAMPLES = ['I love you', '小沈阳江西演唱会邀请了，', 'The cat chased the mouse', 'Once upon a time']

export class Explorer {
  text = $state('')
  model = $state('')
  models = $state<string[]>([])
  language = $state<Language>('en')
  theme = $state<Theme>('light')
  trace = $state.raw<Trace | null>(null)
  summaries = $state.raw<(Summary | undefined)[][]>([])
  busy = $state(false)
  error = $state('')

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
  call = $derived(this.trace?.calls[this.layer] ?? null)
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
      this.#open(await server.trace(text, this.model, running.signal))
    } catch (e) {
      if (running.signal.aborted) return
      this.trace = null
      this.error = this.#line(e)
    } finally {
      if (this.#running === running) this.busy = false
    }
  }

  choose(layer: number, head: number): void {
    if (!this.trace) return
    this.layer = clamp(layer, this.trace.calls.length)
    this.head = clamp(head, heads(this.trace.calls[this.layer]))
    this.#fit()
  }

  keep(query: number, key: number): void {
    if (!this.call) return
    this.cell = { query: clamp(query, queries(this.call)), key: clamp(key, keys(this.call)) }
    this.hover = null
  }

  // Keep what a token looks at most, besides the first token: that one is often only a sink.
  look(query: number): void {
    if (!this.call) return
    let key = Math.min(1, query, keys(this.call) - 1)
    for (let j = key; j < keys(this.call); j++) if (this.weight(query, j) > this.weight(query, key)) key = j
    this.keep(query, key)
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
    if (this.trace && this.trace.tokens.join('\n') !== trace.tokens.join('\n')) this.cell = null
    this.trace = trace
    if (this.exported) this.model = trace.model.name
    this.layer = clamp(this.layer, trace.calls.length)
    this.head = clamp(this.head, heads(trace.calls[this.layer]))
    this.hover = null
    const call = trace.calls[this.layer]
    if (!this.cell || this.cell.query >= queries(call) || this.cell.key >= keys(call)) this.look(queries(call) - 1)
    void this.#summarise(trace)
  }

  #fit(): void {
    if (this.cell) this.keep(this.cell.query, this.cell.key)
  }

  // Head by head between frames: a long text has many millions of weights to sum.
  async #summarise(trace: Trace): Promise<void> {
    const found: (Summary | undefined)[][] = trace.calls.map((call) => new Array(heads(call)).fill(undefined))
    this.summaries = found
    let last = performance.now()
    for (const [n, call] of trace.calls.entries()) {
      for (let head = 0; head < heads(call); head++) {
        found[n][head] = summary(call, head)
        if (performance.now() - last < 30) continue
        this.summaries = found.map((row) => [...row])
        await new Promise((resolve) => setTimeout(resolve))
        if (this.trace !== trace) return
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
