// Heads by what muting each of them does, as the server tells them one by one.

export const MEASURES = ['divergence', 'change'] as const
export type Measure = (typeof MEASURES)[number]
export interface Effect { layer: number; head: number; kind: string; divergence: number; change: number }

export const LISTED = 10

// What is missed most comes first: the largest divergence, or what the likeliest token loses most by.
export function ordered(effects: Effect[], by: Measure): Effect[] {
  const missed = ({ divergence, change }: Effect) => (by === 'divergence' ? divergence : -change)
  return [...effects].sort((a, b) => missed(b) - missed(a))
}

// Of the numbers so far; a divergence begins at 0, which is no change.
export function limits(effects: Effect[], by: Measure): [weak: number, strong: number] {
  const found = effects.map((effect) => effect[by])
  if (by === 'divergence') return [0, Math.max(...found, 0)]
  return [Math.max(...found), Math.min(...found)]
}

// The place of a number along the ramp, strong at its end.
export function share(value: number, [weak, strong]: [number, number]): number {
  return strong === weak ? 0 : (value - weak) / (strong - weak)
}
