// Colours that carry numbers. Warm means weight and nothing else; every ramp is linear between its stops.
export type Theme = 'light' | 'dark'
type RGB = [number, number, number]

const WEIGHT: Record<Theme, string> = {
  light: '#fdfbf6 #f9e9c1 #f7d086 #f4b046 #e88b00 #cd6b00 #a95103 #803a12 #542613',
  dark: '#191a1d #3a261a #66381d #904e1d #b96c18 #dd921e #f2bd4d #f8e092 #fef8d9',
}
const STATISTIC: Record<Theme, string> = {
  light: '#daf6ef #83bfbc #4b838a #2d4b56 #1b2228',
  dark: '#1b2228 #2d4b56 #4b838a #83bfbc #daf6ef',
}
const SIGNED: Record<Theme, string> = {
  light: '#5b6b80 #ffffff #e88b00',
  dark: '#7d8ea6 #1b1f26 #e88b00',
}
export type Hue = 'q' | 'k' | 'v' | 'o' | 'ink'   // ink: a vector of the stream, which has no role
const HUES: Record<Theme, Record<Hue, string>> = {
  light: { q: '#1a45b0', k: '#b0132f', v: '#007d63', o: '#a336da', ink: '#16181d' },
  dark: { q: '#5a9aff', k: '#ff6b76', v: '#45e3aa', o: '#d2b0ff', ink: '#f1efe9' },
}
// What is painted on a canvas and carries no number; elsewhere app.css has the same.
export const INKS = {
  light: { sunk: '#f4f2ec', masked: '#ece9e0', line: '#d3cfc3', ink: '#16181d', faint: '#6a7080', page: '#fbfaf7', q: '#1a45b0', k: '#b0132f' },
  dark: { sunk: '#1b1f26', masked: '#12151a', line: '#363c47', ink: '#f1efe9', faint: '#8b909c', page: '#0f1115', q: '#5a9aff', k: '#ff6b76' },
} satisfies Record<Theme, Record<string, string>>
const ZERO: Record<Theme, string> = { light: '#ffffff', dark: '#1b1f26' }

const parsed = new Map<string, RGB[]>()

function stops(ramp: string): RGB[] {
  const found = parsed.get(ramp) ?? ramp.split(' ').map((c) => [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)) as RGB)
  parsed.set(ramp, found)
  return found
}

export interface Colour { fill: string; ink: string }

// The colour of `share` (0 to 1) along a ramp, and the ink that reads best upon it.
function along(ramp: string, share: number): Colour {
  const list = stops(ramp)
  const place = Math.min(1, Math.max(0, share)) * (list.length - 1)
  const from = Math.min(Math.floor(place), list.length - 2)
  const [r, g, b] = list[from].map((c, n) => Math.round(c + (list[from + 1][n] - c) * (place - from)))
  return { fill: `rgb(${r} ${g} ${b})`, ink: luminance(r, g, b) > 0.18 ? '#000000' : '#ffffff' }   // either has a contrast of 4.5 at least
}

function luminance(...rgb: RGB): number {
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4))
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}

export const weight = (share: number, theme: Theme): Colour => along(WEIGHT[theme], share)
export const statistic = (share: number, theme: Theme): Colour => along(STATISTIC[theme], share)
export const signed = (share: number, theme: Theme): Colour => along(SIGNED[theme], (share + 1) / 2)
// A vector's number: its role's hue where positive, grey where negative; by default pale enough for ink to read on.
export const role = (name: Hue, share: number, theme: Theme, strength = 0.48): Colour =>
  along(`#8a8f99 ${ZERO[theme]} ${HUES[theme][name]}`, 0.5 + (share * strength) / 2)

const gradient = (ramp: string) => `linear-gradient(to right, ${ramp.split(' ').join(', ')})`
export const bars = {
  weight: (theme: Theme) => gradient(WEIGHT[theme]),
  statistic: (theme: Theme) => gradient(STATISTIC[theme]),
  signed: (theme: Theme) => gradient(SIGNED[theme]),
}
