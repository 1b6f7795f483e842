// Files that the reader takes along: made by the server, or out of the trace that the page carries.
import type { Explorer } from '../state/explorer.svelte'
import { TEXTLESS, type Screen } from '../state/screens'
import { map, number } from '../wire/attention'
import { answer, type Source } from '../wire/source'
import { KINDS, type Call, type Trace, type Translation } from '../wire/trace'

export const FORMATS = ['svg', 'png', 'html', 'json'] as const
export type Format = (typeof FORMATS)[number]

// What a screen shows that is more than the open place: where its file is asked for, and its own part of the address of a page
// in a file, which may name another screen where this one needs a model; and its numbers, where there is no server to ask. A screen
// of no text has no call and says its formats.
export interface Shown {
  path: string; asked: Record<string, string>; call?: Call; view: Record<string, string>
  formats?: readonly Format[]; numbers?: () => Promise<object>
}
const screens = new WeakMap<Explorer, Map<Screen, () => Shown | null>>()

// A screen tells what it shows whenever it is asked; null while that is no more than the open place.
export function shows(explorer: Explorer, screen: Screen, now: () => Shown | null): void {
  screens.set(explorer, (screens.get(explorer) ?? new Map<Screen, () => Shown | null>()).set(screen, now))
}

const textless = ({ screen }: Explorer): boolean => TEXTLESS.includes(screen)
const shown = (explorer: Explorer): Shown | null => (textless(explorer) ? explorer.saved : screens.get(explorer)?.get(explorer.screen)?.() ?? null)

const alone = (explorer: Explorer): boolean => explorer.exported || explorer.shipped

// What can be saved: without a server no pictures are made.
export function offered(explorer: Explorer): readonly Format[] {
  if (textless(explorer)) return shown(explorer)?.formats ?? []
  return !explorer.trace ? [] : alone(explorer) ? ['json'] : FORMATS
}

// Hands a file to the browser; returns its name.
export async function save(explorer: Explorer, format: Format): Promise<string> {
  const { source, kind, layer, head, cell } = explorer
  const call = explorer.calls[layer], own = () => numbers(source!, explorer.calls, call, head, cell?.query ?? call.queries - 1, kind)
  const body = alone(explorer) && !textless(explorer)
    ? new Blob([JSON.stringify(await (shown(explorer)?.numbers ?? own)())])
    : await (await answer(file(explorer, call, format))).blob()
  const link = document.createElement('a')
  link.href = URL.createObjectURL(body)
  link.download = `klieg.${format}`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  return link.download
}

// The address of a file of what is shown. A page is always that of the open trace.
function file(explorer: Explorer, call: Call, format: Format): string {
  const { scale, language, theme, source } = explorer
  const now = shown(explorer), colours = { lang: language, dark: `${theme === 'dark'}` }, looks = { scale, ...colours }
  if (now && (format !== 'html' || now.formats)) {
    const { path, asked, call } = now
    const open: Record<string, string> = call ? { call: `${call.index}`, head: `${Math.min(explorer.head, call.heads - 1)}`, ...looks } : colours
    return `${path}/pictures/${format}?${new URLSearchParams({ ...asked, ...open })}`
  }
  const trace = `api/traces/${encodeURIComponent(source!.trace.id)}/pictures/${format}`
  if (format === 'html') return `${trace}?${new URLSearchParams({ view: view(explorer.hash, now) })}`
  return `${trace}?${place(explorer, call, looks)}`
}

function place({ head, cell, screen, more }: Explorer, call: Call, looks: Record<string, string>): URLSearchParams {
  const pairs: Record<string, string> = { call: `${call.index}`, head: `${head}`, ...looks }
  if (cell) pairs.token = `${cell.query}`
  if (screen === 'map') Object.assign(pairs, part(call, more))
  return new URLSearchParams(pairs)
}

const LONGEST = 2000   // characters that the server takes

// The address of what is looked at as far as a page without a model has it; '' where it is too long to be carried.
export function view(hash: string, shown: Pick<Shown, 'view'> | null): string {
  const pairs = new URLSearchParams(hash.slice(1))
  const gone = (name: string) => ['text', 'model', 'to', 'written'].includes(name) || (shown !== null && name.includes('.'))
  for (const name of [...pairs.keys()]) if (gone(name)) pairs.delete(name)
  for (const [name, value] of Object.entries(shown?.view ?? {})) pairs.set(name, value)
  return `${pairs}`.length > LONGEST ? '' : `${pairs}`
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

// What a file carries for its numbers: see klieg/views/wire.py.
interface Carried { written?: { token: string; p: number }[] }

// What the numbers of every screen say of a text and the pass over it.
export const told = ({ text, ids, tokens, kernel, certificate }: Trace) => ({ text, ids, tokens, kernel, certificate })

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
  const { ids, written } = trace as Trace & Carried
  const kinds = KINDS.map((name) => [name, trace.calls.filter((each) => each.kind === name)] as const)
  const shape = (calls: Call[]) => ({ layers: calls.length, heads: calls[0].heads, kv_heads: calls[0].kv_heads })
  return {
    model: trace.model.name, text: trace.text, ids, tokens: trace.tokens, layers: trace.model.layers, heads: trace.model.heads,
    kv_heads: trace.model.kv_heads, kernel: trace.kernel, next: next.map(({ token, p }) => ({ token, p })), certificate: trace.certificate,
    open: { layer: call.layer, head, token, scale: call.scale, scores: rows('masked', null), weights: rows('weight', 0), ...(kind && { kind }) },
    looks,
    ...(trace.translation && {
      source: { text: trace.translation.source, ids: (trace.translation as Translation & { ids: number[] }).ids, tokens: trace.translation.tokens },
      kinds: Object.fromEntries(kinds.map(([name, calls]) => [name, shape(calls)])), written,
    }),
  }
}
