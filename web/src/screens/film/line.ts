// Where the tokens of a text stand in one line: written out as far as there is room, and before that as ticks, side by side.

export interface Line {
  x: Float64Array     // the middle of every token, in pixels
  folded: number      // so many of the first are ticks
  fold: number        // pixels that the ticks take
}

const WIDEST = 22, NARROWEST = 13   // pixels between two tokens
const TICK = 5                     // pixels of a tick, where there is room
const FOLD = 24                    // pixels of all ticks at least, where there is room
const SHARE = 0.3                  // of the line at most is given to ticks

// The gap with which all labels have room, as far as it can be had.
export function gapOf(widths: number[], room: number): number {
  const all = widths.reduce((a, b) => a + b, 0)
  return Math.min(WIDEST, Math.max(NARROWEST, (room - all) / Math.max(widths.length - 1, 1)))
}

// The first `to` tokens, with labels of these widths; the gap is the one that all of them will need.
export function line(widths: number[], to: number, room: number, gap = gapOf(widths, room)): Line {
  let folded = to, wide = -gap
  while (folded > 0 && (folded === to || wide + gap + widths[folded - 1] + fold(folded - 1, room, gap) <= room)) wide += gap + widths[--folded]
  const x = new Float64Array(to)
  const taken = fold(folded, room, 0)
  for (let n = 0; n < folded; n++) x[n] = ((n + 0.5) * taken) / folded
  let left = fold(folded, room, gap)
  for (let n = folded; n < to; n++) {
    x[n] = left + widths[n] / 2
    left += widths[n] + gap
  }
  return { x, folded, fold: taken }
}

const fold = (count: number, room: number, gap: number): number => (count ? Math.min(Math.max(count * TICK, FOLD), SHARE * room) + gap : 0)

// Tokens as a phrase: labels joined as their text was. See klieg/labels.py.
const CLOSE = /^[\p{P}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u
export function phrase(labels: string[]): string {
  return labels.map((label, n) => (label.startsWith('·') ? label.slice(1) : n === 0 || CLOSE.test(label) ? label : ` ${label}`)).join('')
}
