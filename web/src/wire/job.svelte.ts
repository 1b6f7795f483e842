// A long job of the server: how far it is, what it found, and an end to it whenever nobody waits any more.
import type { Explorer } from '../state/explorer.svelte'
import { events } from './events'
import { post, ServerError } from './source'

export class Job<Found> {
  found = $state.raw<{ asked: string; body: Found } | null>(null)
  busy = $state(false)
  done = $state.raw<{ done: number; expected: number } | null>(null)   // null until it has begun
  error = $state('')

  #running: AbortController | null = null

  constructor(private readonly explorer: Explorer, private readonly path: string) {}

  // What was found for what is asked; null where that is something else.
  of(asked: object): Found | null {
    return this.found?.asked === JSON.stringify(asked) ? this.found.body : null
  }

  async run(asked: object): Promise<void> {
    this.stop()
    const { signal } = (this.#running = new AbortController())
    this.busy = true
    this.done = null
    this.error = ''
    try {
      for await (const { name, body } of events(this.path, { ...post(asked), signal })) {
        if (signal.aborted) return
        if (name === 'progress') this.done = body as { done: number; expected: number }
        else this.found = { asked: JSON.stringify(asked), body: body as Found }
      }
    } catch (e) {
      if (!signal.aborted) this.error = line(e, this.explorer)
    } finally {
      if (!signal.aborted) this.stop()
    }
  }

  stop(): void {
    this.#running?.abort()
    this.busy = false
  }
}

// What went wrong, as a line that may be shown.
export const line = (e: unknown, explorer: Explorer): string => (e instanceof ServerError ? e.line ?? explorer.words.unreachable : String(e))
