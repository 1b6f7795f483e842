// What each way to follow attention says of the tokens before, beside what hiding them does; see klieg/analysis/flow.py.
export const WAYS = ['raw', 'rollout', 'max-flow', 'value'] as const
export type Way = (typeof WAYS)[number]
export interface Share { way: Way; corrected: boolean; shares: number[]; correlation: number | null }
export interface Found { token: number; without_first: boolean; effects: number[]; ways: Share[] }

// The place of the largest number, of those alike the first.
export const largest = (numbers: number[]): number => numbers.indexOf(Math.max(...numbers))

// The ways that agree with hiding most and least; null where none has a correlation.
export function extremes(ways: Share[]): { best: Share; worst: Share } | null {
  const known = ways.filter(({ correlation }) => correlation !== null).sort((a, b) => b.correlation! - a.correlation!)
  return known.length ? { best: known[0], worst: known.at(-1)! } : null
}

// A way looks elsewhere where its largest share is not on the token whose hiding does most.
export const astray = ({ effects, without_first }: Found, { shares }: Share): boolean => {
  const first = without_first ? 1 : 0
  return largest(shares.slice(first)) !== largest(effects.slice(first))
}

// Three digits after the point; a small number has one that says something.
export const share = (x: number): string => (x >= 0.0005 || x === 0 ? x.toFixed(3) : x.toExponential(0).replace('e-', 'e\u2212'))
