// What the pronoun of the open text stands for: which words were chosen, and what heads and model make of them.
import { shows, type Shown } from '../../parts/save'
import { EXAMPLES } from '../../state/examples'
import type { Explorer } from '../../state/explorer.svelte'
import { Job, line } from '../../wire/job.svelte'
import { json, post, type Source } from '../../wire/source'
import type { Kind } from '../../wire/trace'
import { places, read, READY, write, type Ready, type Span } from './riddle'

export const VIEWS = ['one', 'sets', 'grammar'] as const
export type View = (typeof VIEWS)[number]
export const READINGS = ['pronoun', 'clause', 'end'] as const
export type Reading = (typeof READINGS)[number]
export const ROLES = ['pronoun', 'candidate'] as const
export type Role = (typeof ROLES)[number]

export interface Word { place: Span | null; tokens: number[]; label: string }
export interface Row { layer: number; kind: Kind; heads: number; kv_heads: number }
export interface Candidate { phrase: string; place: Span; tokens: number[]; right: boolean }
export interface Looked { name: Reading; tokens: number[]; shares: number[]; most: number; blind: number; weights: number[][] }
export interface Solved { rows: Row[]; candidates: Candidate[]; readings: Looked[]; itself: number[] | null }

export interface Rate { share: number; low: number; high: number; count: number }
export interface Summed {
  model: string; set: string; rows: Row[]; tries: number; chosen: { layer: number; kind: Kind; head: number }; reading: Reading; way: 'sum' | 'mean' | 'max'
  development: Rate; test: Rate; baselines: Record<string, Rate>; answers: Record<string, Rate>; best_baseline: string; p: number
  facets: Record<string, Record<string, Rate>>; too_long: number; left_out: Record<string, number>
  heads: { layer: number; kind: Kind; head: number; mean: number }[]
}
export interface Contrast {
  one: { text: string; tokens: string[]; bits: number[]; total: number }; other: { text: string; tokens: string[]; bits: number[]; total: number }
  columns: [number | null, number | null][]; gains: number[]; difference: number
}
export interface Grammar { model: string; total: Rate; phenomena: (Rate & { name: [string, string] })[] }

export class Reference {
  words = $state.raw<{ of: Source; words: Word[] } | null>(null)
  solved = $state.raw<{ of: Source; asked: string; solved: Solved } | null>(null)
  error = $state('')
  busy = $state(false)
  role = $state<Role>('pronoun')        // what a click on a word chooses
  sets = $state.raw<string[] | null>(null)   // null until the server has said them
  pairs = $state<boolean | null>(null)       // whether there is BLiMP
  set: Job<Summed>
  grammar: Job<Grammar>
  contrast = $state.raw<{ asked: string; found: Contrast } | null>(null)
  unfit = $state('')                    // why two sentences were not compared

  here = $derived.by(() => !this.explorer.exported && !this.explorer.shipped && this.explorer.source !== null)
  text = $derived.by(() => this.explorer.trace?.text ?? '')
  view = $derived.by<View>(() => VIEWS.find((view) => view === this.explorer.more['coref.view']) ?? 'one')
  reading = $derived.by<Reading>(() => READINGS.find((reading) => reading === this.explorer.more['coref.from']) ?? 'pronoun')
  pronoun = $derived.by<Span | null>(() => read(this.explorer.more['coref.it'] ?? '', this.text)[0] ?? null)
  candidates = $derived.by<Span[]>(() => read(this.explorer.more['coref.of'] ?? '', this.text))   // the right one first
  whole = $derived.by(() => this.pronoun !== null && this.candidates.length > 1)
  known = $derived.by(() => (this.words && this.words.of === this.explorer.source ? this.words.words : null))
  now = $derived.by(() => (this.solved && this.solved.of === this.explorer.source && this.solved.asked === this.#asked() ? this.solved.solved : null))
  looked = $derived.by(() => this.now?.readings.find(({ name }) => name === this.reading) ?? null)
  // The open head's place in the order of all heads.
  place = $derived.by(() => {
    const call = this.explorer.calls[this.explorer.layer]
    let at = 0
    for (const row of this.now?.rows ?? []) {
      if (row.layer === call?.layer && row.kind === call.kind) return at + this.explorer.head
      at += row.heads
    }
    return -1
  })
  // The head that puts most weight on the right candidate.
  leader = $derived.by(() => {
    const { now, looked } = this
    if (!now || !looked) return null
    const right = now.candidates.findIndex((candidate) => candidate.right)
    let best = { layer: 0, head: 0, weight: -1 }, at = 0
    for (const row of now.rows) for (let head = 0; head < row.heads; head++, at++) {
      if (looked.weights[at][right] > best.weight) best = { layer: row.layer, head, weight: looked.weights[at][right] }
    }
    return best
  })
  model = $derived.by(() => (this.explorer.filed ? '' : this.explorer.model))
  wanted = $derived.by(() => ({ name: this.sets?.find((set) => set === this.explorer.more['coref.set']) ?? this.sets?.[0] ?? '', model: this.model }))
  summed = $derived.by(() => this.set.of(this.wanted))
  facets = $derived.by(() => Object.keys(this.summed?.facets ?? {}))
  facet = $derived.by(() => this.facets.find((facet) => facet === this.explorer.more['coref.part']) ?? null)   // null: all riddles
  count = $derived.by(() => (/^(10|50|1000)$/.test(this.explorer.more['coref.pairs'] ?? '') ? Number(this.explorer.more['coref.pairs']) : 10))
  asked = $derived.by(() => ({ model: this.model, pairs: this.count }))
  phenomena = $derived.by(() => this.grammar.of(this.asked))
  sentences = $derived.by<[string, string]>(() => [this.explorer.more['coref.right'] ?? 'The cats sleep.', this.explorer.more['coref.wrong'] ?? 'The cats sleeps.'])

  #running: AbortController | null = null
  #comparing: AbortController | null = null
  #leads = false    // a riddle was taken from the ready ones: its leading head is opened

  constructor(private readonly explorer: Explorer) {
    this.set = new Job(explorer, 'api/riddles')
    this.grammar = new Job(explorer, 'api/grammar')
    shows(explorer, 'coref', () => this.#shown())
  }

  // What the server offers: words to choose from, and sets to go through.
  async open(): Promise<void> {
    const source = this.explorer.source!
    this.error = ''
    if (!this.whole && this.explorer.text === EXAMPLES[0].text && !this.explorer.written) return this.take(READY[0])
    this.role = this.pronoun ? 'candidate' : 'pronoun'
    try {
      const { words } = await json<{ words: Word[] }>(`api/coreferences/${encodeURIComponent(source.trace.id)}`)
      if (source === this.explorer.source) this.words = { of: source, words }
    } catch (e) {
      if (source === this.explorer.source) this.error = line(e, this.explorer)
    }
  }

  async offer(): Promise<void> {
    const [sets, pairs] = await Promise.all([
      json<{ sets: string[] }>('api/riddles').then((found) => found.sets, () => []), json<{ there: boolean }>('api/grammar').then((found) => found.there, () => false)])
    this.sets = sets
    this.pairs = pairs
  }

  take(ready: Ready): void {
    const { pronoun, candidates } = places(ready)
    this.#leads = true
    Object.assign(this.explorer.more, { 'coref.it': write([pronoun], ready.text), 'coref.of': write(candidates, ready.text) })
    if (this.text !== ready.text) void this.explorer.run(ready.text)
  }

  // A click on a word: the pronoun, or one more candidate, or one less; with `more` the last candidate grows up to it.
  choose(place: Span, more = false): void {
    const same = (span: Span | null) => span !== null && span[0] < place[1] && place[0] < span[1]
    if (this.role === 'pronoun') {
      this.#mark(place, this.candidates.filter((span) => !same(span)))
      this.role = 'candidate'
    } else if (same(this.pronoun)) {
      this.#mark(null, this.candidates)
      this.role = 'pronoun'
    } else if (more && this.candidates.length) {
      const last = this.candidates.at(-1)!, grown: Span = [Math.min(last[0], place[0]), Math.max(last[1], place[1])]
      const free = (span: Span | null) => span === null || span[0] >= grown[1] || span[1] <= grown[0]
      if (free(this.pronoun)) this.#mark(this.pronoun, [...this.candidates.slice(0, -1).filter(free), grown])
    } else this.#mark(this.pronoun, this.candidates.some(same) ? this.candidates.filter((span) => !same(span)) : [...this.candidates, place])
  }

  // Say that this candidate is the right one.
  right(span: Span): void {
    this.#mark(this.pronoun, [span, ...this.candidates.filter((each) => each !== span)])
  }

  drop(span: Span): void {
    this.#mark(this.pronoun, this.candidates.filter((each) => each !== span))
  }

  ask(name: 'view' | 'from' | 'set' | 'part' | 'pairs' | 'right' | 'wrong', value: string): void {
    this.explorer.more[`coref.${name}`] = value
  }

  next(): void {
    this.ask('from', READINGS[(READINGS.indexOf(this.reading) + 1) % READINGS.length])
  }

  async solve(): Promise<void> {
    this.#running?.abort()
    this.busy = false
    if (!this.whole) return
    const { signal } = (this.#running = new AbortController()), of = this.explorer.source!, asked = this.#asked()
    this.busy = true
    this.error = ''
    try {
      const solved = await json<Solved>('api/coreferences', { ...post({ id: of.trace.id, pronoun: this.pronoun, candidates: this.candidates }), signal })
      if (signal.aborted) return
      this.solved = { of, asked, solved }
      if (this.#leads && this.leader) this.lead()
      this.#leads = false
    } catch (e) {
      if (!signal.aborted) this.error = line(e, this.explorer)
    } finally {
      if (!signal.aborted) this.busy = false
    }
  }

  // Open the head that puts most weight on the right candidate.
  lead(): void {
    const { layer, head } = this.leader!
    this.explorer.choose(this.explorer.calls.findIndex((call) => call.layer === layer), head)
  }

  async compare(): Promise<void> {
    this.#comparing?.abort()
    const { signal } = (this.#comparing = new AbortController()), [one, other] = this.sentences, asked = JSON.stringify([this.model, one, other])
    this.unfit = ''
    try {
      const found = await json<Contrast>('api/grammar/pair', { ...post({ model: this.model, one, other }), signal })
      if (!signal.aborted) this.contrast = { asked, found }
    } catch (e) {
      if (!signal.aborted) this.unfit = line(e, this.explorer)
    }
  }

  run(): void {
    if (this.view === 'sets' && this.wanted.name && !this.set.busy) void this.set.run(this.wanted)
    if (this.view === 'grammar' && this.pairs && !this.grammar.busy) void this.grammar.run(this.asked)
  }

  stop(): void {
    this.#running?.abort()
    this.#comparing?.abort()
    this.set.stop()
    this.grammar.stop()
  }

  #mark(pronoun: Span | null, candidates: Span[]): void {
    Object.assign(this.explorer.more, { 'coref.it': pronoun ? write([pronoun], this.text) : '', 'coref.of': write(candidates, this.text) })
  }

  #asked(): string {
    return JSON.stringify([this.pronoun, this.candidates])
  }

  #shown(): Shown | null {
    const spans = (list: Span[]) => list.map((span) => span.join('-')).join(','), view = { screen: 'heads' }
    if (this.view === 'sets') return this.summed && { path: `api/riddles/${encodeURIComponent(this.wanted.name)}`, asked: { model: this.model }, view }
    if (this.view === 'grammar') return this.phenomena && { path: 'api/grammar', asked: { model: this.model, pairs: `${this.count}` }, view }
    return this.now && {
      path: `api/coreferences/${encodeURIComponent(this.explorer.source!.trace.id)}`, view,
      asked: { pronoun: spans([this.pronoun!]), candidates: spans(this.candidates), at: this.reading },
    }
  }
}
