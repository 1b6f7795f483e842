// The screens by name, in the order of the bar; screens/index.ts has what draws each.
export const SCREENS = ['walk', 'heads', 'map', 'film', 'whatif', 'compare'] as const
export type Screen = (typeof SCREENS)[number]
