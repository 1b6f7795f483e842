// Files that the reader takes along: made by the server, or out of the trace that the page carries.
import type { Explorer } from '../state/explorer.svelte'
import { map, number } from '../wire/attention'
import { answer, type Source } from '../wire/source'
import type { Call } from '../wire/trace'

export const FORMATS = ['svg', 'png', 'html', 'json'] as const
export type Format = (typeof FORMATS)[number]

const alone = (explorer: Explorer): boolean => explorer.exported || explorer.shipped

// What can be saved: without a server no pictures are made.
export const offered = (explorer: Explorer): readonly Format[] => (!explorer.trace ? [] : alone(explorer) ? ['json'] : FORMATS)

// Hands a file to the browser; returns its name.
export async function save(explorer: Explorer, format: Format): Promise<string> {
  const { source, kind, layer, head, cell } = explorer
  const call = explorer.calls[layer]
  const body = alone(explorer)
    ? new Blob([JSON.stringify(await numbers(source!, explorer.calls, call, head, cell?.query ?? call.queries - 1, kind))])
    : await (await answer(`api/traces/${encodeURIComponent(source!.trace.id)}/pictures/${format}?${place(explorer, call)}`)).blob()
  const link = document.createElement('a')
  link.href = URL.createObjectURL(body)
  link.download = `klieg.${format}`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  return link.download
}

function place({ head, cell, scale, language, theme, screen, more }: Explorer, call: Call): URLSearchParams {
  const pairs: Record<string, string> = { call: `${call.index}`, head: `${head}`, scale, lang: language, dark: `${theme === 'dark'}` }
  if (cell) pairs.token = `${cell.query}`
  if (screen === 'map') Object.assign(pairs, part(call, more))
  return new URLSearchParams(pairs)
}

// Of the map the part that is in view: its middle and how many tokens it is wide.
export function part(call: Pick<Call, 'queries' | 'keys'>, more: Record<string, string>): Record<string, string> {
  const [query, key, across] = (more['map.at'] ?? '').split(',').map(Number)
  const scale = (more['map.scale'] ?? 'log') === 'log' ? 'log' : 'linear'   // as the map begins
  if (!(across > 0)) return { scale }
  const span = (middle: number, count: number) => {
    const from = Math.min(Math.max(Math.round(middle - across / 2), 0), count - 1)
    return `${from}-${Math.min(Math.max(Math.round(middle + across / 2), from + 1), count)}`
  }
  return { scale, rows: span(query, call.queries), keys: span(key, call.keys) }
}

// The numbers of klieg/views/summary.py, under the same names: the open head, where a token looks in every head, what is next.
export async function numbers(source: Source, calls: Call[], call: Call, head: number, token: number, kind: string | null): Promise<object> {
  const { trace } = source, opened = await source.head(call, head)
  const rows = (stage: 'masked' | 'weight', hidden: number | null) => {
    const found = map(opened, stage)
    return Array.from({ length: call.queries }, (_, i) => Array.from(found.subarray(i * call.keys, (i + 1) * call.keys), (x) => (Number.isNaN(x) ? hidden : x)))
  }
  const looks = await Promise.all(calls.map((each) => Promise.all(Array.from({ length: each.heads }, async (_, h) => {
    const one = await source.head(each, h)
    return Array.from({ length: each.keys }, (_, key) => number(one, token, key, 'weight'))
  }))))
  const next = await source.next(kind === 'encoder' ? trace.tokens.length - 1 : token)
  return {
    model: trace.model.name, text: trace.text, tokens: trace.tokens, layers: trace.model.layers, heads: trace.model.heads,
    kv_heads: trace.model.kv_heads, kernel: trace.kernel, next: next.map(({ token, p }) => ({ token, p })), certificate: trace.certificate,
    open: { layer: call.layer, head, token, scale: call.scale, scores: rows('masked', null), weights: rows('weight', 0), ...(kind && { kind }) },
    looks, ...(trace.translation && { source: { text: trace.translation.source, tokens: trace.translation.tokens } }),
  }
}
