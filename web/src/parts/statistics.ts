// One number for each head, to colour the grid of heads by: those of klieg/views/statistics.py, entropy in bits.
import type { Call } from '../wire/trace'

export const STATISTICS = ['entropy', 'sharpest', 'distance', 'first', 'own', 'beside', 'received'] as const
export type Statistic = (typeof STATISTICS)[number]

export const isShare = (name: Statistic): boolean => name !== 'entropy' && name !== 'distance'

export function values(call: Call, name: Statistic): number[] {
  return Array.from(call.statistics[name] ?? [], (x) => (name === 'entropy' ? x / Math.LN2 : x))
}
