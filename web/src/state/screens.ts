// The screens by name, in the order of the bar; screens/index.ts has what draws each.
export const SCREENS = ['walk', 'heads', 'map', 'film', 'whatif', 'compare', 'flow', 'atlas', 'labs'] as const
export type Screen = (typeof SCREENS)[number]

// The bar has two groups: one text looked at, and what is true beyond a single map.
export const SECOND: Screen = 'flow'
// These are of no text that is open.
export const TEXTLESS: readonly Screen[] = ['atlas', 'labs']
