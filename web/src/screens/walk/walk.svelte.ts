// The state of a walk: the step it has come to, the tokens that it shows, and the numbers around the chosen head.
import type { Explorer } from '../../state/explorer.svelte'
import { number, reason, type Stage } from '../../wire/attention'
import type { Candidate, Stream } from '../../wire/trace'
import { steady } from './rows'
import { STEPS, type Step } from './steps'
import { strips, type Spot } from './strips'
import { WORDS } from './words'

const KEY = 'walk.step', PACE = 3200   // milliseconds of a step

export class Walk {
  playing = $state(false)
  flashes = $state(false)                    // what a step changed is framed for a moment, where nothing moves
  size = $state(12)                          // rows that there is room for
  spot = $state.raw<Spot | null>(null)       // the number of a strip that is pointed at
  around = $state.raw<Stream | null>(null)
  likely = $state.raw<Candidate[]>([])       // after the chosen token

  #queries: number[] = []                    // what was shown before
  #keys: number[] = []

  constructor(readonly explorer: Explorer) {}

  words = $derived.by(() => WORDS[this.explorer.language])
  call = $derived.by(() => this.explorer.call!)
  cross = $derived.by(() => this.call.kind === 'cross')
  step = $derived.by(() => {
    const found = STEPS.indexOf(this.explorer.more[KEY] as Step)
    return found < 0 ? STEPS.indexOf('softmax') : found
  })
  name = $derived.by(() => STEPS[this.step])
  chosen = $derived.by(() => this.explorer.cell ?? { query: this.call.queries - 1, key: this.explorer.most(this.call.queries - 1) })
  shown = $derived.by(() => this.explorer.shown ?? this.chosen)

  queries = $derived.by(() => {
    const { query, key } = this.chosen
    return (this.#queries = steady(this.#queries, this.call.queries, this.size, this.cross ? [0, query] : [0, query, key], query))
  })
  keys = $derived.by(() => {
    const { query, key } = this.chosen
    if (!this.cross) return this.queries
    return (this.#keys = steady(this.#keys, this.call.keys, this.size, [0, key], Math.min(query, this.call.keys - 1)))
  })
  // The stream, where it is that of the head and of the tokens on the page.
  stream = $derived.by(() => (this.around?.call === this.call && this.around.rows === this.queries ? this.around : null))
  strips = $derived.by(() => strips(this.explorer.opened!, this.stream, this.queries, this.keys))
  row = $derived.by(() => this.queries.indexOf(this.shown.query))
  column = $derived.by(() => this.keys.indexOf(this.shown.key))

  // What is asked for an earlier view may come late: it is dropped.
  load(): void {
    const { source } = this.explorer, { call, queries } = this
    if (this.stream) return
    void source?.stream(call, queries).then((found) => {
      if (source === this.explorer.source && call === this.explorer.call && queries === this.queries) this.around = found
    }).catch(() => (this.around = { call, rows: queries, course: { why: '' }, tensors: {} }))
  }

  go(step: number): void {
    const to = Math.min(Math.max(step, 0), STEPS.length - 1)
    if (to === this.step) return
    this.explorer.more[KEY] = STEPS[to]
    this.spot = null
    if (!still()) return
    this.flashes = true
    setTimeout(() => (this.flashes = false), 600)
  }

  // From the end it plays from the start; where nothing shall move, it goes one step.
  toggle(): void {
    if (still()) {
      this.go(this.step === STEPS.length - 1 ? 0 : this.step + 1)
      return
    }
    if (!this.playing && this.step === STEPS.length - 1) this.go(0)
    this.playing = !this.playing
  }

  // Goes on by itself, until the last step; what it gives back stops it.
  play(): (() => void) | undefined {
    if (!this.playing) return
    const timer = setInterval(() => {
      this.go(this.step + 1)
      if (this.step === STEPS.length - 1) this.playing = false
    }, PACE)
    return () => clearInterval(timer)
  }

  // The numbers of a matrix, row by row; NaN where the mask leaves none.
  numbers(stage: Stage): number[][] {
    const head = this.explorer.opened!, seesAll = stage === 'dot' || stage === 'scaled'
    return this.queries.map((i) => this.keys.map((j) => (!seesAll && reason(head, i, j) !== null ? NaN : number(head, i, j, stage))))
  }

  token = (query: number): string => this.explorer.axes[0][query] ?? ''
  keyToken = (key: number): string => this.explorer.axes[1][key] ?? ''
}

const still = (): boolean => matchMedia('(prefers-reduced-motion: reduce)').matches
