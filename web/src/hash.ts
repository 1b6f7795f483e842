// What is looked at, in the address: a link or a reload opens the same view.
import { STAGES, type Stage } from './attention'
import { STATISTICS, type Statistic } from './statistics'
import { KINDS, type Kind } from './wire'
import type { Language } from './words'

export const SCALES = ['linear', 'log', 'hide'] as const
export type Scale = (typeof SCALES)[number]
export interface Cell { query: number; key: number }

export interface View {
  text: string; model: string; layer: number; head: number; stage: Stage; scale: Scale
  statistic: Statistic; cell: Cell | null; language: Language
  kind: Kind | null          // of a translator the attention that is open
  to: string                 // its target language, '' where it has one
}

export function read(hash: string): Partial<View> {
  const given = new URLSearchParams(hash.replace(/^#/, ''))
  const view: Partial<View> = {}
  const text = given.get('text'), model = given.get('model')
  if (text !== null) view.text = text
  if (model !== null) view.model = model
  for (const name of ['layer', 'head'] as const) if (/^\d+$/.test(given.get(name) ?? '')) view[name] = Number(given.get(name))
  view.stage = oneOf(STAGES, given.get('stage'))
  view.scale = oneOf(SCALES, given.get('scale'))
  view.statistic = oneOf(STATISTICS, given.get('colour'))
  view.kind = oneOf(KINDS, given.get('kind'))
  view.to = given.get('to') ?? undefined
  view.language = oneOf(['en', 'zh'] as const, given.get('lang'))
  const cell = /^(\d+)\.(\d+)$/.exec(given.get('cell') ?? '')
  if (cell) view.cell = { query: Number(cell[1]), key: Number(cell[2]) }
  return view
}

export function write(view: View): string {
  const { text, model, layer, head, stage, scale, statistic, cell, language, kind, to } = view
  const pairs: Record<string, string> = { lang: language, model, text, layer: `${layer}`, head: `${head}`, stage, scale, colour: statistic }
  if (kind) pairs.kind = kind
  if (to) pairs.to = to
  if (cell) pairs.cell = `${cell.query}.${cell.key}`
  return `#${new URLSearchParams(pairs)}`
}

function oneOf<T extends string>(known: readonly T[], given: string | null): T | undefined {
  return known.find((name) => name === given)
}
