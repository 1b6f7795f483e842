// The screens by name, in the order of the bar; screens/index.ts has what draws each.
export const SCREENS = ['walk', 'heads', 'map', 'film', 'whatif', 'compare', 'flow', 'sparse', 'coref', 'atlas', 'labs'] as const
export type Screen = (typeof SCREENS)[number]

// The key that opens each.
export const OPENS: Record<Screen, string> = {
  walk: '1', heads: '2', map: '3', film: '4', whatif: '5', compare: '6', flow: '7', sparse: 'p', coref: 'c', atlas: '8', labs: '9',
}

// The bar has two groups: one text looked at, and what is true beyond a single map.
export const SECOND: Screen = 'flow'
// These are of no text that is open.
export const TEXTLESS: readonly Screen[] = ['atlas', 'labs']
