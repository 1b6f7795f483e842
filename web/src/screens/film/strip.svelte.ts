// One way that a text goes on: its steps, and what they are drawn from.
import { number } from '../../wire/attention'
import { message, type Source } from '../../wire/source'
import type { Candidate, Head, Kind } from '../../wire/trace'
import type { Choice } from './sampling'

// One token: what was chosen, the probability that the model gave it, and what else it might have said.
export interface Step { id: number; token: string; p: number | null; rank?: number; candidates: Candidate[] }
export interface Logits { candidates: Candidate[]; values: Float32Array }
export interface Told { start: number; steps: Step[] }

// One way that the text goes on; `shared` steps are those of the strip above.
export class Strip {
  steps = $state.raw<Step[]>([])
  source = $state.raw<Source | null>(null)   // null while it is being written
  start = $state(0)                          // the place of the first written token
  head = $state.raw<Head | null>(null)       // whose trails are drawn
  #logits = new Map<number, Promise<Logits>>()
  #rows: Float64Array[] = []
  #wanted = ''

  // `base` are the tokens before the first written one.
  constructor(readonly base: string[], readonly choice: Choice, readonly shared = 0) {
    this.start = base.length
  }

  get tokens(): string[] {
    const known = this.source?.trace.tokens ?? this.base
    return [...known, ...this.steps.slice(known.length - this.start).map((step) => step.token)]
  }

  // The pass over all of it has been made.
  told(source: Source, { start, steps }: Told): void {
    this.source = source
    this.start = start
    this.steps = steps
    this.#logits = new Map()
  }

  // Load what the trails of a head are computed from.
  async look(kind: Kind | null, layer: number, head: number): Promise<void> {
    const calls = this.source?.trace.calls.filter((call) => kind === null || call.kind === kind) ?? []
    const call = calls[Math.min(layer, calls.length - 1)], wanted = call ? `${this.source!.trace.id}.${call.index}.${head}` : ''
    if (wanted === this.#wanted && this.head) return
    this.#wanted = wanted
    const found = call?.kept ? await this.source!.head(call, Math.min(head, call.heads - 1)) : null
    if (wanted !== this.#wanted) return
    this.#rows = []
    this.head = found
  }

  // Where the row that chose a step looked: that of the token before it.
  row(step: number): Float64Array {
    const { head } = this, query = this.start + step - 1
    if (!head || query >= head.call.queries) return new Float64Array()
    const seen = head.call.kind === 'cross' ? head.call.keys : query + 1
    return (this.#rows[step] ??= Float64Array.from({ length: seen }, (_, key) => number(head, query, key, 'weight')))
  }

  // All logits of a step, where there is a server to ask; null of one that is only being written.
  async logits(step: number): Promise<Logits | null> {
    const after = this.start + step - 1
    if (!this.source || after >= this.source.trace.tokens.length) return null
    let found = this.#logits.get(after)
    if (!found) {
      found = message<{ candidates: Candidate[] }>(`api/traces/${encodeURIComponent(this.source.trace.id)}/logits/${after}`)
        .then(({ body, tensors }) => ({ candidates: body.candidates, values: tensors.logits.data as Float32Array }))
      this.#logits.set(after, found)
      if (this.#logits.size > 8) this.#logits.delete(this.#logits.keys().next().value!)
    }
    return await found
  }
}
