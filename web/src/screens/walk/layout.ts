// Where everything of the wide walk stands, in pixels of its own box. Rows of the same token share one line.

export interface Span { x: number; w: number }
export interface Given {
  width: number; tall: number        // of the box, and what the window has for it
  rows: number; columns: number
  token: number; label: number       // the widest token, and the height that labels of columns need
  folded: number                     // earlier layers
  panel: number                      // height of the panel once it is drawn
  beside: boolean                    // whether there is room for what follows attention on the panel's right
  matrix: number                     // which of the three is the wide one, where not all can be
}
export interface Layout {
  height: number
  pitch: number
  first: number                      // top of the first row
  tokens: Span; embed: Span; cards: Span; norm: Span; q: Span
  keys: { y: number; pitch: number }; values: { y: number; pitch: number }
  panel: Span & { y: number }
  matrices: (Span & { cell: number })[]   // inside the panel
  labels: Span                            // of the rows, inside the panel
  top: number                             // of the rows, inside the panel
  foot: number                            // what the panel leaves below them
  ends: number                            // bottom of the panel
  again: Span | null                      // the tokens once more, where the right part stands below
  low: number                             // top of the first row on the right
  mixed: Span; joined: Span; projected: Span; plus: Span; fed: Span; plusFed: Span; pager: Span
  list: Span & { y: number }
}

const GAP = 30, PAD = 18, LEAST = 34, MOST = 44, THIN = 9, CARD = 262, FLAT = 22
const NAMED = 176                     // of a matrix with digits: its name beside its formula
export const HEAD = 48, TITLES = 56   // of the panel: its own line; the names and bars of the matrices
export const STREAM = 26               // the line of the residual stream and its words, above the panel
export const UPRIGHT = 64              // the most that upright labels of columns take

// Between two of the lines that come up to the columns of scores.
export const lane = (columns: number): number => Math.min(7, 26 / columns)

export const end = ({ x, w }: Span): number => x + w

// How many tokens can be read in a panel: one matrix with digits, two with colours, and the card below them in the window.
export function fitting(room: number, tall: number): number {
  const columns = (room - 2 * PAD - 64 - 2 * GAP) / (LEAST + 2 * THIN), rows = (tall - STREAM - HEAD - TITLES - UPRIGHT - 46 - CARD) / FLAT
  return Math.max(5, Math.min(12, Math.floor(Math.min(columns, Math.max(rows, 8)))))
}

export function layout(given: Given): Layout {
  const { width, rows, columns, beside } = given
  const tokens = { x: 0, w: Math.min(104, Math.max(58, given.token + 22)) }
  const embed = { x: end(tokens) + 18, w: 54 }
  const cards = { x: end(embed) + 8, w: given.folded ? 8 + 5 * (Math.min(given.folded, 6) - 1) : 0 }
  const norm = { x: end(cards) + (given.folded ? 9 : 10), w: 38 }
  const q = { x: end(norm) + 28, w: 58 }
  const panelX = end(q) + 20
  const panel = { x: panelX, y: beside ? STREAM : 6, w: width - panelX - (beside ? RIGHT + 28 : 0) }
  const labels = { x: PAD - 4, w: Math.min(84, Math.max(40, given.token + 16)) }
  const top = HEAD + TITLES + given.label
  const first = panel.y + top
  const foot = 22 + lane(columns) * columns
  const pitch = Math.max(FLAT, Math.min(40, Math.floor((given.tall - first - foot - CARD) / rows)))
  const bottom = first + rows * pitch
  const ends = Math.max(panel.y + given.panel, bottom + foot + 200)
  const each = Math.max(9, Math.min(21, Math.floor((ends - bottom - 92) / (2 * columns))))
  const keys = { y: bottom + 46, pitch: each }
  const values = { y: keys.y + columns * each + 40, pitch: each }
  const left = { tokens, embed, cards, norm, q, keys, values, panel, labels, pitch, first, top, foot, ends }
  const low = beside ? first : Math.max(ends, values.y + columns * each) + 92
  const right = beside ? after(end(panel) + 28, 1, 1) : after(end(tokens) + 24, 1.7, 1.2)
  const list = beside ? { x: right.mixed.x, w: width - right.mixed.x, y: bottom + 78 } : { x: end(right.pager) + 32, w: width - end(right.pager) - 32, y: low - 40 }
  return {
    ...left, ...right, low, matrices: matrices(given, panel.w, labels), again: beside ? null : tokens,
    list, height: Math.max(ends + 14 + 3 * columns, values.y + columns * each, beside ? list.y + 240 : Math.max(low + rows * pitch, list.y + 250)),
  }
}

const WIDTHS = [42, 56, 32, 16, 38, 16, 26], GAPS = [18, 18, 16, 14, 14, 16]
const RIGHT = [...WIDTHS, ...GAPS].reduce((a, b) => a + b, 0)

// What follows attention, from x on.
function after(x: number, wide: number, apart: number): Pick<Layout, 'mixed' | 'joined' | 'projected' | 'plus' | 'fed' | 'plusFed' | 'pager'> {
  const spans = WIDTHS.map((w, n) => {
    const span = { x, w: w === 16 || n === 6 ? w : Math.round(w * wide) }
    x = end(span) + (GAPS[n] ?? 0) * apart
    return span
  })
  const [mixed, joined, projected, plus, fed, plusFed, pager] = spans
  return { mixed, joined, projected, plus, fed, plusFed, pager }
}

// Three matrices side by side: all with digits, or the one that the step is about.
function matrices({ columns, matrix }: Given, panel: number, labels: Span): (Span & { cell: number })[] {
  const from = end(labels) + 4
  const room = panel - from - PAD - 2 * GAP
  const same = Math.min(MOST, Math.floor(room / (3 * columns)))
  const wide = same >= LEAST ? same : Math.max(LEAST, Math.min(MOST, Math.floor((room - 2 * columns * THIN) / columns)))
  const thin = same >= LEAST ? same : Math.max(4, Math.floor((room - wide * columns) / (2 * columns)))
  let x = from
  const least = same >= LEAST ? Math.min(NAMED, Math.floor(room / 3)) : 0
  const across = (cell: number) => Math.max(cell * columns, least)
  const spare = Math.max(0, room - across(wide) - 2 * across(thin)) / 2
  return [0, 1, 2].map((n) => {
    const cell = n === matrix ? wide : thin
    const span = { x, w: across(cell), cell }
    x = end(span) + GAP + spare
    return span
  })
}
