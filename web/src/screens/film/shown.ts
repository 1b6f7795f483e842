// What is saved of a film: its strips up to the step that is open, with the head whose trails are drawn.
import type { Shown } from '../../parts/save'
import type { Film } from './film.svelte'

export function shown(film: Pick<Film, 'strips' | 'chosen' | 'at' | 'kind'>, layer: number): Shown | null {
  const [a, b] = film.strips, own = film.strips[film.chosen]
  if (!a?.source || !own?.source) return null
  const trace = a.source.trace, calls = trace.calls.filter((call) => film.kind === null || call.kind === film.kind)
  const asked: Record<string, string> = { stop: `${a.start + film.at + 1}` }
  if (b?.source) asked.other = b.source.trace.id
  // The steps of a page in a file begin at the first token whose probability it carries.
  const { tokens, predicted } = own.source.trace, first = Math.max(1, tokens.length - predicted + 1)
  return {
    path: `api/traces/${encodeURIComponent(trace.id)}/steps/${a.start}`, asked, call: calls[Math.min(layer, calls.length - 1)],
    view: { 'film.at': `${Math.max(0, own.start + film.at - first)}` },
  }
}
