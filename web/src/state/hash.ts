// What is looked at, in the address: a link or a reload opens the same view.
import type { Theme } from '../parts/palette'
import { STATISTICS, type Statistic } from '../parts/statistics'
import { STAGES, type Stage } from '../wire/attention'
import { KINDS, type Kind } from '../wire/trace'
import { SCREENS, type Screen } from './screens'
import type { Language } from './words'

export const SCALES = ['linear', 'log', 'hide'] as const
export type Scale = (typeof SCALES)[number]
export const LINKED = 20_000   // characters of a text that still go into an address
export interface Cell { query: number; key: number }
export interface Written { after: string; ids: number[] }   // what a film wrote after a text: of an end mark no text tells

export interface View {
  screen: Screen; text: string; model: string; layer: number; head: number; stage: Stage; scale: Scale
  statistic: Statistic; cell: Cell | null; language: Language; theme: Theme
  kind: Kind | null          // of a translator the attention that is open
  to: string                 // its target language, '' where it has one
  written: Written | null    // the text that is shown was written; an address has what it was written after
  more: Record<string, string>   // what single screens keep, under names that begin with theirs: "map.rows"
}

export function read(hash: string): Partial<View> {
  const given = new URLSearchParams(hash.replace(/^#/, ''))
  const view: Partial<View> = {}
  const text = given.get('text'), model = given.get('model')
  if (text !== null) view.text = text
  if (model !== null) view.model = model
  for (const name of ['layer', 'head'] as const) if (/^\d+$/.test(given.get(name) ?? '')) view[name] = Number(given.get(name))
  view.screen = oneOf(SCREENS, given.get('screen'))
  view.stage = oneOf(STAGES, given.get('stage'))
  view.scale = oneOf(SCALES, given.get('scale'))
  view.statistic = oneOf(STATISTICS, given.get('colour'))
  view.kind = oneOf(KINDS, given.get('kind'))
  view.to = given.get('to') ?? undefined
  view.language = oneOf(['en', 'zh'] as const, given.get('lang'))
  view.theme = oneOf(['light', 'dark'] as const, given.get('theme'))
  const cell = /^(\d+)\.(\d+)$/.exec(given.get('cell') ?? '')
  if (cell) view.cell = { query: Number(cell[1]), key: Number(cell[2]) }
  const ids = given.get('written') ?? ''
  if (text !== null && /^\d{1,9}(\.\d{1,9})*$/.test(ids)) view.written = { after: text, ids: ids.split('.').map(Number) }
  const more = [...given].filter(([name]) => SCREENS.some((screen) => name.startsWith(`${screen}.`)))
  if (more.length) view.more = Object.fromEntries(more)
  return view
}

export function write(view: View): string {
  const { screen, model, layer, head, stage, scale, statistic, cell, language, theme, kind, to, more, written } = view
  const text = written?.after ?? view.text
  const pairs: Record<string, string> = { lang: language, theme, screen, model, layer: `${layer}`, head: `${head}`, stage, scale, colour: statistic }
  if (text.length <= LINKED) pairs.text = text
  if (text.length <= LINKED && written) pairs.written = written.ids.join('.')
  if (kind) pairs.kind = kind
  if (to) pairs.to = to
  if (cell) pairs.cell = `${cell.query}.${cell.key}`
  for (const [name, value] of Object.entries(more)) if (name.startsWith(`${screen}.`)) pairs[name] = value
  return `#${new URLSearchParams(pairs)}`
}

function oneOf<T extends string>(known: readonly T[], given: string | null): T | undefined {
  return known.find((name) => name === given)
}
