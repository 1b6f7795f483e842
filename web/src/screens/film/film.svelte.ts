// The film: a text that the model goes on with, token by token, and a branch beside it. It stays while other screens are open.
import { shows } from '../../parts/save'
import { events } from '../../wire/events'
import { json, open, post, ServerError, type Source } from '../../wire/source'
import type { Candidate, Kind, Trace } from '../../wire/trace'
import type { Explorer } from '../../state/explorer.svelte'
import { chosen, OWN, said, sampled, type Choice, type Sampling } from './sampling'
import { shown } from './shown'
import { Strip, type Step, type Told } from './strip.svelte'

export const COUNT = 16    // tokens that are written at a time
export const OFFERED = 5   // candidates of a step that are shown

export class Film {
  strips = $state.raw<Strip[]>([])
  chosen = $state(0)           // the strip that is looked at
  at = $state(0)               // the step
  candidate = $state(0)        // of those that were not chosen, the one that B branches to
  all = $state(false)          // trails of all steps
  side = $state(false)         // both strips at once
  drawn = $state(false)        // the next tokens are drawn by chance; else the likeliest is taken
  sampling = $state.raw<Sampling>(OWN)
  seed = $state(0)
  writing = $state(false)
  playing = $state(false)
  error = $state('')
  readonly #explorer: Explorer
  #prompt: Source | null = null
  #text = ''                   // of the prompt
  #running: AbortController | null = null

  constructor(explorer: Explorer) {
    this.#explorer = explorer
    addEventListener('pagehide', () => this.#close(explorer.source))
    shows(explorer, 'film', () => shown(this, explorer.layer, explorer.head))
    const { more } = explorer, choice = chosen(more['film.by'])
    this.all = more['film.all'] === '1'
    this.sampling = sampled(more['film.sampling']) ?? OWN
    if (choice) [this.drawn, this.seed] = [true, choice.seed]
  }

  get strip(): Strip | null {
    return this.strips[this.chosen] ?? null
  }

  get step(): Step | null {
    return this.strip?.steps[this.at] ?? null
  }

  // What the step did not choose, the likeliest first.
  get others(): Candidate[] {
    return this.step?.candidates.filter(({ id }) => id !== this.step!.id) ?? []
  }

  // The kind of attention whose trails are drawn.
  get kind(): Kind | null {
    return this.#explorer.kind && (this.#explorer.kind === 'self' ? 'self' : 'cross')
  }

  // Whether there is a model to ask.
  get live(): boolean {
    const { exported, files, model } = this.#explorer
    return !exported && !files.includes(model)
  }

  // What is shown has changed: another text or model has a film of its own.
  async follow(source: Source | null): Promise<void> {
    if (!source || this.#explorer.shipped || source === this.#prompt || this.strips.some((strip) => strip.source === source)) {
      if (source && source === this.#prompt && this.strip?.source) this.#show(this.strip)
      return
    }
    const { more } = this.#explorer, wanted = this.#prompt === null ? { ...more } : {}
    this.#close(source)
    this.#prompt = source
    this.#text = this.#explorer.text
    this.strips = [new Strip(base(source.trace), wanted['film.by'] ? chosen(wanted['film.by']) : this.choice)]
    this.chosen = this.at = this.candidate = 0
    this.side = this.playing = false
    delete more['film.branch']
    await (this.live ? this.#write(this.strips[0], []) : this.#told(this.strips[0], source))
    await this.#restore(source, wanted)
  }

  // The branch and the step that the address names.
  async #restore(source: Source, wanted: Record<string, string>): Promise<void> {
    const at = Number(wanted['film.at'] ?? NaN), [step, id, ...by] = (wanted['film.branch'] ?? '').split(' ')
    if (/^\d+$/.test(step) && /^\d+$/.test(id ?? '') && source === this.#prompt) await this.branch(Number(id), Number(step), chosen(by.join(' ')))
    while (this.live && source === this.#prompt && this.strip?.source && at >= this.strip.steps.length) {
      const before = this.strip.steps.length
      await this.more()
      if (this.strip.steps.length === before) break
    }
    if (source === this.#prompt && at >= 0) this.go(at)
  }

  // How the next tokens will be chosen.
  get choice(): Choice {
    return this.drawn ? { ...this.sampling, seed: this.seed } : null
  }

  go(step: number): void {
    const last = (this.strip?.steps.length ?? 1) - 1
    this.at = Math.max(0, Math.min(step, last))
    this.candidate = 0
    if (!this.writing) this.#explorer.more['film.at'] = `${this.at}`
  }

  look(strip: number, step: number): void {
    if (this.strips[strip] && strip !== this.chosen) {
      this.chosen = strip
      if (this.strip!.source) this.#show(this.strip!)
    }
    this.go(step)
  }

  // Go on from a step with another token; the way it went stays above.
  async branch(id: number, step = this.at, choice = this.choice): Promise<void> {
    const above = this.strip
    if (!above?.source || !this.live || this.writing || step >= above.steps.length) return
    const below = this.strips.find((strip) => strip !== above)
    if (below && below.source !== this.#explorer.source) below.source?.close()
    const made = new Strip(above.tokens.slice(0, above.start), choice, step)
    made.steps = above.steps.slice(0, step)
    this.strips = [above, made]
    this.chosen = 1
    this.#explorer.more['film.branch'] = [step, id, said(choice)].join(' ').trim()
    await this.#write(made, [...made.steps.map((s) => s.id), id])
    this.go(step)
  }

  // Some tokens more.
  async more(): Promise<void> {
    if (this.strip?.source && this.live && !this.writing) await this.#write(this.strip, this.strip.steps.map((s) => s.id))
  }

  // The whole film anew, as it is chosen now.
  async again(): Promise<void> {
    const [strip] = this.strips
    if (!strip || this.writing) return
    if (this.drawn) this.seed++
    this.#close(this.#explorer.source)
    this.side = false
    this.strips = [new Strip(strip.tokens.slice(0, strip.start), this.choice)]
    this.chosen = this.at = 0
    delete this.#explorer.more['film.branch']
    await this.#write(this.strips[0], [])
  }

  // Rescale what is shown; the model is not asked.
  resample(change: Partial<Sampling>): void {
    this.sampling = { ...this.sampling, ...change }
    const { temperature, top_k, top_p } = this.sampling
    this.#explorer.more['film.sampling'] = `${temperature} ${top_k} ${top_p}`
  }

  stop(): void {
    this.playing = false
    this.#running?.abort()
  }

  async #write(strip: Strip, written: number[]): Promise<void> {
    this.#running?.abort()
    const running = (this.#running = new AbortController()), { model, to } = this.#explorer, text = this.#text
    const { signal } = running
    this.writing = true
    this.error = ''
    try {
      const asked = { text, model, ...(to ? { to } : {}), written, count: COUNT, ...strip.choice }
      if (!strip.shared) this.#explorer.more['film.by'] = said(strip.choice)
      for await (const { name, body } of events('api/films', { ...post(asked), signal })) {
        if (name === 'token') this.#add(strip, body as Step)
        else if (name === 'end') await this.#end(strip, body as Told & { id: string }, signal)
      }
    } catch (e) {
      if (!signal.aborted) this.error = e instanceof ServerError && e.line !== null ? e.line : this.#explorer.words.unreachable
    } finally {
      if (this.#running === running) this.writing = false
    }
  }

  #add(strip: Strip, { id, token, p }: Step): void {
    strip.steps = [...strip.steps, { id, token, p, candidates: [] }]
    if (strip === this.strip) this.at = strip.steps.length - 1
  }

  async #end(strip: Strip, told: Told & { id: string }, signal: AbortSignal): Promise<void> {
    const before = strip.source
    strip.told(await open(told.id, signal), told)
    if (strip !== this.strip) return
    this.go(told.steps.length - 1)
    if (this.#explorer.screen === 'film' || before) this.#show(strip)
  }

  // A trace that is there: its own tokens, as if they were being written.
  async #told(strip: Strip, source: Source): Promise<void> {
    const path = `api/traces/${encodeURIComponent(source.trace.id)}/steps/1`
    try {
      strip.told(source, await (this.#explorer.exported ? embedded(source) : json<Told>(path)))
      this.go(strip.steps.length - 1)
    } catch (e) {
      this.error = e instanceof ServerError && e.line !== null ? e.line : this.#explorer.words.unreachable
    }
  }

  // The other screens look at what the film is about.
  #show(strip: Strip): void {
    const explorer = this.#explorer, before = explorer.source
    if (before === strip.source) return
    explorer.source = strip.source
    this.name()
    explorer.cell = explorer.hover = explorer.opened = null
    if (before && !this.strips.some((other) => other.source === before)) before.close()
    explorer.choose(explorer.layer, explorer.head)
  }

  // The address of the film has its prompt; other screens show all that was written, and theirs has that.
  name(here = this.#explorer.screen === 'film'): void {
    const explorer = this.#explorer, { source } = explorer, strip = this.strips.find((each) => each.source === source)
    if (!source || !strip || !this.live) return
    explorer.written = here || !strip.steps.length ? null : { after: this.#text, ids: strip.steps.map(({ id }) => id) }
    if (!source.trace.translation) explorer.text = here ? this.#text : source.trace.text
  }

  #close(but: Source | null): void {
    this.stop()
    for (const { source } of this.strips) if (source && source !== but) source.close()
  }
}

// The steps of a trace in a file, from the likeliest tokens that it carries.
async function embedded(source: Source): Promise<Told> {
  const { trace } = source
  const start = Math.max(1, trace.tokens.length - trace.predicted + 1)
  const found = trace.tokens.slice(start).map(async (token, n) => {
    const candidates = await source.next(start + n - 1), id = trace.ids?.[start + n] ?? -1
    return { id, token, p: candidates.find((each) => each.id === id)?.p ?? null, candidates }
  })
  return { start, steps: await Promise.all(found) }
}

// What a film begins with: the text, or of a translator the mark before its target.
const base = ({ tokens, translation }: Trace): string[] => (translation ? tokens.slice(0, 1) : tokens)

const films = new WeakMap<Explorer, Film>()

// The film of a page, which outlives the screen.
export function filmOf(explorer: Explorer): Film {
  const known = films.get(explorer) ?? new Film(explorer)
  films.set(explorer, known)
  return known
}
