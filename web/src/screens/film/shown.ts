// What is saved of a film: its strips up to the step that is open, with the head whose trails are drawn.
import { told, type Shown } from '../../parts/save'
import type { Call } from '../../wire/trace'
import type { Film } from './film.svelte'
import type { Strip } from './strip.svelte'

export function shown(film: Pick<Film, 'strips' | 'chosen' | 'at' | 'kind'>, layer: number, head: number): Shown | null {
  const [a, b] = film.strips, own = film.strips[film.chosen]
  if (!a?.source || !own?.source) return null
  const trace = a.source.trace, calls = trace.calls.filter((call) => film.kind === null || call.kind === film.kind)
  const asked: Record<string, string> = { stop: `${a.start + film.at + 1}` }
  if (b?.source) asked.other = b.source.trace.id
  // The steps of a page in a file begin at the first token whose probability it carries.
  const { tokens, predicted } = own.source.trace, first = Math.max(1, tokens.length - predicted + 1)
  const at = Math.min(layer, calls.length - 1), call = calls[at]
  return {
    path: `api/traces/${encodeURIComponent(trace.id)}/steps/${a.start}`, asked, call,
    view: { 'film.at': `${Math.max(0, own.start + film.at - first)}` },
    numbers: async () => ({ model: trace.model.name, strips: [await numbers(own, film.at, call, at, Math.min(head, call.heads - 1))] }),
  }
}

// The numbers of klieg/views/film.py, under the same names: the steps up to the open one, each with the row it looked with. A file
// carries the likeliest tokens alone; of a less likely one neither probability nor rank is known.
async function numbers(strip: Strip, last: number, call: Call, layer: number, head: number): Promise<object> {
  await strip.look(call.kind, layer, head)
  const steps = strip.steps.slice(0, last + 1).map((step, n) => {
    const rank = step.candidates.findIndex(({ id }) => id === step.id) + 1
    const row = strip.row(n), looks = Array.from({ length: call.keys }, (_, key) => row[key] || 0)
    return { ...step, rank: rank || null, ...(call.kept && { looks }) }
  })
  return { ...told(strip.source!.trace), start: strip.start, steps, open: { layer: call.layer, head, kind: call.kind } }
}
