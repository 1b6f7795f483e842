// The heads of an atlas with their scores, as the server tells them; see klieg/analysis/atlas.
export interface Row { layer: number; kind: string; heads: number; kv_heads: number }
export interface Line { layer: number; kind: string; head: number; mean: number; low: number | null; high: number | null; chance: number; texts: number }
export interface Score { name: string; unit: string; words: [en: string, zh: string] }
export interface Atlas { name: string; of: 'corpus' | 'treebank'; model: string; tokens?: number; texts: number; whole: boolean; rows: Row[]; scores: Score[] }
// In a treebank: the head that was chosen on the other half of the sentences, and what it is held to.
export interface Gold { chosen: { layer: number; kind: string; head: number }; share: number; development: number; offset: number; baseline: number; p: number }

export const COLUMNS = ['head', 'mean', 'chance', 'texts'] as const
export type Column = (typeof COLUMNS)[number]

// By a column, the largest first; heads by layer and head, the first first. `turned` is the other way round.
export function sorted(lines: Line[], by: Column, turned: boolean): Line[] {
  const before = (a: Line, b: Line) => (by === 'head' ? a.layer - b.layer || a.head - b.head : b[by] - a[by] || a.layer - b.layer || a.head - b.head)
  return [...lines].sort((a, b) => (turned ? -before(a, b) : before(a, b)))
}

// Whether the whole interval lies on one side of chance.
export const beyond = ({ low, high, chance }: Line): boolean => low !== null && high !== null && (low > chance || high < chance)

// What an axis must hold: every interval, or the mean of a single text, and chance.
export function span(lines: Line[]): [low: number, high: number] {
  return [Math.min(...lines.map(({ mean, low, chance }) => Math.min(low ?? mean, chance))), Math.max(...lines.map(({ mean, high, chance }) => Math.max(high ?? mean, chance)))]
}
