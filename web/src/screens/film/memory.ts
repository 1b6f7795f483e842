// Bytes of keys and values that are kept while a model writes, and what they would be with other numbers of K/V heads.
import type { Call } from '../../wire/trace'

export const KINDS = ['mha', 'gqa', 'mqa'] as const
export type Kind = (typeof KINDS)[number]

// The attention of one layer, as far as its cache is concerned. A window keeps no more tokens than it sees.
export interface Layer { heads: number; kv_heads: number; window: number | null }

export interface Memory {
  layers: Layer[]
  numbers: number      // of a key and its value together
  bytes: number        // of one number
}

export const layersOf = (calls: Call[]): Layer[] => calls.map(({ heads, kv_heads, rules }) =>
  ({ heads, kv_heads, window: rules.find((rule) => rule.kind === 'window')?.size ?? null }))

// Which of the three a model is.
export function own({ layers }: Memory): Kind {
  if (layers.every((layer) => layer.kv_heads === layer.heads)) return 'mha'
  return layers.every((layer) => layer.kv_heads === 1) ? 'mqa' : 'gqa'
}

// K/V heads of a layer as each kind: every query head its own, one for all, or between them the model's own or, where
// it has no groups, one for four query heads.
export function groups(memory: Memory, layer: Layer, kind: Kind): number {
  if (kind !== 'gqa') return kind === 'mha' ? layer.heads : 1
  if (own(memory) === 'gqa') return layer.kv_heads
  return layer.heads % 4 === 0 ? layer.heads / 4 : Math.max(1, Math.floor(layer.heads / 2))
}

// Bytes of a cache of so many tokens.
export function held(memory: Memory, kind: Kind, tokens: number): number {
  const slots = memory.layers.reduce((sum, layer) => sum + groups(memory, layer, kind) * Math.min(tokens, layer.window ?? Infinity), 0)
  return slots * memory.numbers * memory.bytes
}

// 18 KiB; a digit after the point where it is no whole number.
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024
    unit++
  }
  return `${Number.isInteger(bytes) || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`
}
