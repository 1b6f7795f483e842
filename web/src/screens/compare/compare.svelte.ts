// The state of a comparison: two sides, the second text and where it comes from, and what is asked about both.
import { shows } from '../../parts/save'
import { LONGEST, type Explorer } from '../../state/explorer.svelte'
import { map } from '../../wire/attention'
import * as wire from '../../wire/source'
import type { Source } from '../../wire/source'
import { axes, type Call, type Candidate, type Head, type Kind } from '../../wire/trace'
import { common } from './align'
import { shown } from './shown'
import { compared, Without, type Comparison } from './similarity'
import { WORDS } from './words'

const LIKELY = 200   // next tokens that are asked for, so that most of one list are found in the other

export interface Side {
  name: 'A' | 'B'
  source: Source
  kind: Kind | null
  calls: Call[]
  call: Call
  queries: string[]
  keys: string[]
}

interface Likely { after: number | null; candidates: Candidate[] }
// Something of one text; of another it would be wrong.
interface Loaded<T> { source: Source; thing: T }

const clamp = (index: number, length: number) => Math.min(Math.max(index, 0), length - 1)

export class Comparing {
  other = $state.raw<Source | null>(null)            // the second text, where it is not the first one again
  loaded = $state.raw<Loaded<Head | null>[]>([])     // what came last stays until the next is here
  measured = $state.raw<{ of: Loaded<number>[]; kind: Kind; layer: number; found: Comparison } | null>(null)
  why = $state('')                                   // why there is no similarity
  likely = $state.raw<Loaded<Likely>[]>([])
  busy = $state(false)
  error = $state('')
  active = $state<0 | 1>(0)                          // whose tokens the arrows move

  #reading: AbortController | null = null
  #read = ''                                         // what `other` was read for
  #texts = ''                                        // the two texts that the chosen tokens belong to

  constructor(readonly explorer: Explorer) {
    shows(explorer, 'compare', () => shown(this))
  }

  words = $derived.by(() => WORDS[this.explorer.language])
  alone = $derived.by(() => this.explorer.exported || this.explorer.shipped)
  text = $derived.by(() => this.explorer.more['compare.text'] ?? '')
  options = $derived.by(() => [...this.explorer.files, ...this.explorer.models])
  model = $derived.by(() => this.options.find((name) => name === this.explorer.more['compare.model']) ?? this.explorer.model)
  second = $derived.by(() => !this.alone && this.options.length > 0 && (this.text !== '' || this.model !== this.explorer.model))
  oneModel = $derived.by(() => this.sides !== null && this.sides[0].source.trace.model.name === this.sides[1].source.trace.model.name)

  first = $derived.by(() => (this.explorer.source ? this.#side('A', this.explorer.source) : null))
  sides = $derived.by((): [Side, Side] | null => {
    const other = this.second ? this.other : this.explorer.source
    return this.first && other ? [this.first, this.#side('B', other)] : null
  })
  // The tokens of the address, where the texts have them.
  tokens = $derived.by((): [number, number] => {
    if (!this.sides) return [0, 0]
    const [a, b] = this.sides, [first, last] = common(a.queries, b.queries, a.source === b.source)
    const wanted = (key: string, count: number, otherwise: number) => {
      const given = this.explorer.more[key] ?? ''
      return /^\d+$/.test(given) && Number(given) < count ? Number(given) : otherwise
    }
    return [wanted('compare.a', a.queries.length, first), wanted('compare.b', b.queries.length, last)]
  })
  heads = $derived.by(() => this.#own(this.loaded).map((head, n) => (head && head.call.kind === this.sides![n].call.kind ? head : null)))
  weights = $derived.by(() => this.heads.map((head) => (head ? map(head, 'weight') : null)))
  comparison = $derived.by(() => {
    const { measured, first } = this
    return measured && measured.kind === first?.call.kind && this.#own(measured.of).every((token) => token !== null) ? measured : null
  })
  next = $derived.by(() => this.#own(this.likely))
  // Whether both tokens see the very same: then nothing tells them apart.
  sameSoFar = $derived.by(() => {
    if (!this.sides || this.sides[0].source === this.sides[1].source || !this.oneModel) return false
    const [a, b] = this.sides, [i, j] = this.tokens
    return a.call.kind === 'self' && i === j && a.call.rules.some((rule) => rule.kind === 'causal')
      && !a.source.trace.translation && a.queries.slice(0, i + 1).every((token, n) => token === b.queries[n])
  })

  #side(name: 'A' | 'B', source: Source): Side {
    const { trace } = source, { layer } = this.explorer
    const kind = trace.translation ? this.explorer.kind ?? 'cross' : null
    const calls = trace.calls.filter((call) => kind === null || call.kind === kind)
    const [queries, keys] = axes(trace, kind)
    return { name, source, kind, calls, call: calls[clamp(layer, calls.length)], queries, keys }
  }

  // Of what was loaded, what is of the texts that are shown.
  #own<T>(loaded: Loaded<T>[]): (T | null)[] {
    return (this.sides ?? []).map(({ source }, n) => (loaded[n]?.source === source ? loaded[n].thing : null))
  }

  // The row of weights of a side's chosen token.
  row(n: 0 | 1): Float64Array | null {
    const weights = this.weights[n], call = this.heads[n]?.call
    return weights && call ? weights.subarray(this.tokens[n] * call.keys, (this.tokens[n] + 1) * call.keys) : null
  }

  // After which token a side's predictions are: after the chosen one, where they were kept, else after the last; null: none.
  after(n: 0 | 1): number | null {
    const { source: { trace }, kind } = this.sides![n], last = trace.tokens.length - 1
    if (!trace.predicted) return null
    const token = kind === 'encoder' ? last : this.tokens[n]
    return token > last - trace.predicted ? token : last
  }

  choose(n: 0 | 1, token: number): void {
    this.active = n
    this.explorer.more[`compare.${'ab'[n]}`] = `${clamp(token, this.sides![n].queries.length)}`
  }

  step(by: number): void {
    if (this.sides) this.choose(this.active, this.tokens[this.active] + by)
  }

  ask(text: string): void {
    if (text === this.text) this.#read = ''   // again
    this.#put('compare.text', text)
    this.read()
  }

  take(model: string): void {
    this.#put('compare.model', model === this.explorer.model ? '' : model)
  }

  async example(a: string, b: string): Promise<void> {
    this.#put('compare.text', b)
    if (this.explorer.text !== a) await this.explorer.run(a)
  }

  #put(key: string, value: string): void {
    if (value) this.explorer.more[key] = value
    else delete this.explorer.more[key]
  }

  // Have the second text read, where it is not yet.
  read(): void {
    const { text, model, second } = this, { files, to, trace } = this.explorer
    const own = trace ? trace.translation?.source ?? trace.text : ''
    const wanted = second && trace ? JSON.stringify([text || own, model, model === this.explorer.model ? to : '']) : ''
    if (wanted === this.#read) return
    this.#read = wanted
    this.#reading?.abort()
    const reading = (this.#reading = new AbortController())
    this.busy = wanted !== ''
    this.error = ''
    if (!wanted) return this.#take(null)
    const asked = files.includes(model) ? wire.open(model, reading.signal)
      : wire.read(text || own, model, model === this.explorer.model ? to : '', reading.signal)
    void asked.then((found) => (reading.signal.aborted ? found.close() : this.#take(found))).catch((e: unknown) => {
      if (reading.signal.aborted) return
      this.#take(null)
      this.error = e instanceof wire.ServerError ? e.line ?? this.explorer.words.unreachable : (e as Error).message
    }).finally(() => { if (this.#reading === reading) this.busy = false })
  }

  #take(found: Source | null): void {
    this.other?.close()
    this.other = found
  }

  close(): void {
    this.#reading?.abort()
    this.#take(null)
    this.#read = ''
  }

  // Other texts begin at their own tokens; the first ones at what the address says.
  settle(): void {
    if (!this.sides) return
    const said = this.sides.map((side) => [side.source.trace.model.name, ...side.queries].join('\n')).join('\n\n')
    if (this.#texts && this.#texts !== said) for (const key of ['compare.a', 'compare.b']) delete this.explorer.more[key]
    this.#texts = said
  }

  // The maps of the chosen head.
  load(): void {
    const sides = this.sides, { head } = this.explorer
    if (!sides) return
    void Promise.all(sides.map(async ({ source, call }) => ({
      source, thing: call.kept && Math.max(call.keys, call.queries) <= LONGEST ? await source.head(call, clamp(head, call.heads)) : null,
    }))).then((found) => { if (sides === this.sides && head === this.explorer.head) this.loaded = found })
      .catch(() => { if (sides === this.sides) this.loaded = [] })
  }

  measure(): void {
    const sides = this.sides, tokens = this.tokens
    if (!sides || !this.oneModel) {
      this.measured = null
      this.why = sides ? this.words.twoModels : ''
      return
    }
    const still = () => sides === this.sides && tokens === this.tokens
    const [a, b] = sides.map(({ source, calls, call }, n) => ({ source, calls, call, token: tokens[n] }))
    void compared(a, b).then((found) => {
      if (!still()) return
      this.measured = { of: sides.map(({ source }, n) => ({ source, thing: tokens[n] })), kind: a.call.kind, layer: a.call.layer, found }
      this.why = ''
    }).catch((e: unknown) => {
      if (!still()) return
      this.measured = null
      this.why = e instanceof Without ? e.message || this.words.notInFile
        : e instanceof wire.ServerError ? e.line ?? this.explorer.words.unreachable : (e as Error).message
    })
  }

  predict(): void {
    const sides = this.sides
    if (!sides) return
    const places = [this.after(0), this.after(1)]
    void Promise.all(sides.map(async ({ source }, n) => ({
      source, thing: { after: places[n], candidates: places[n] === null ? [] : await source.next(places[n]!, LIKELY) },
    }))).then((found) => {
      if (sides === this.sides && places.every((place, n) => place === this.after(n as 0 | 1))) this.likely = found
    }).catch(() => { if (sides === this.sides) this.likely = [] })
  }
}
