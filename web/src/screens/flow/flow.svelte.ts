// What flows to a token of the open text, as the server computes it.
import { shows } from '../../parts/save'
import type { Explorer } from '../../state/explorer.svelte'
import { events } from '../../wire/events'
import { post, ServerError, type Source } from '../../wire/source'
import type { Found } from './ways'

const AT_ONCE = 48   // tokens up to which a flow is computed without being asked for

export class Following {
  found = $state.raw<{ of: Source; flow: Found } | null>(null)
  busy = $state(false)
  done = $state.raw({ done: 0, expected: 1 })   // tokens that were hidden
  error = $state('')

  live = $derived.by(() => !this.explorer.exported && !this.explorer.shipped && this.explorer.source !== null)
  count = $derived.by(() => this.explorer.trace?.tokens.length ?? 0)
  // The token that is flowed to; by default the last.
  token = $derived.by(() => {
    const given = this.explorer.more['flow.token'] ?? ''
    return /^\d{1,9}$/.test(given) && Number(given) < this.count ? Number(given) : this.count - 1
  })
  withoutFirst = $derived.by(() => this.explorer.more['flow.first'] === 'out')
  // What was found, if it is of the token that is asked for.
  now = $derived.by(() => {
    const { of, flow } = this.found ?? {}
    return flow && of === this.explorer.source && flow.token === this.token && flow.without_first === this.withoutFirst ? flow : null
  })

  #running: AbortController | null = null
  #read: Source | null = null   // the text that was followed last

  constructor(private readonly explorer: Explorer) {
    shows(explorer, 'flow', () => this.now && {
      path: `api/flows/${encodeURIComponent(explorer.source!.trace.id)}`, asked: { token: `${this.token}`, without_first: `${this.withoutFirst}` }, view: { screen: 'heads' },
    })
  }

  choose(token: number): void {
    this.explorer.more['flow.token'] = `${Math.min(Math.max(token, 1), this.count - 1)}`
  }

  rest(out: boolean): void {
    this.explorer.more['flow.first'] = out ? 'out' : 'in'
  }

  // Another text, token or choice: a short text is computed at once. Another text is followed to its last token.
  renew(): void {
    this.stop()
    this.error = ''
    const other = this.#read !== null && this.#read !== this.explorer.source
    this.#read = this.explorer.source
    if (other) this.explorer.more['flow.token'] = ''
    if (this.count <= AT_ONCE) void this.compute()
  }

  async compute(): Promise<void> {
    this.stop()
    const { signal } = (this.#running = new AbortController())
    this.busy = true
    this.done = { done: 0, expected: this.token }
    this.error = ''
    try {
      const of = this.explorer.source!, asked = { id: of.trace.id, token: this.token, without_first: this.withoutFirst }
      for await (const { name, body } of events('api/flows', { ...post(asked), signal })) {
        if (signal.aborted) return
        if (name === 'progress') this.done = body as { done: number; expected: number }
        else this.found = { of, flow: body as Found }
      }
    } catch (e) {
      if (!signal.aborted) this.error = e instanceof ServerError ? e.line ?? this.explorer.words.unreachable : String(e)
    } finally {
      if (!signal.aborted) this.stop()
    }
  }

  stop(): void {
    this.#running?.abort()
    this.busy = false
  }
}
