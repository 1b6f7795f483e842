// Draws the map on a canvas. What is drawn again in every frame is only moved: tiles are pictures, texts are made once,
// and nothing is allocated while one pans.
import { FAMILY } from '../../parts/measure'
import { fixed, thousands } from '../../parts/numbers'
import { INKS, type Theme } from '../../parts/palette'
import { ramp, shade, step, type Limits, type Pool, type Ramp, type Scale } from './shade'
import type { Slot, Tiles } from './store'
import type { Names } from './units'
import { NUMBERS, ticks, unitAt, WHOLE, type Room, type View } from './view'

const MOST = 400   // tiles in one picture
const PAINTING = 4   // milliseconds of a frame after which no other tile's picture is begun

export interface Look { theme: Theme; pool: Pool; scale: Scale; limits: Limits; bucket: number }
export interface Marks {
  cell: { query: number; key: number } | null   // the crosshair
  found: number[]                                // tokens at which a passage was found
  sink: boolean                                  // whether the first token is framed
}

export class Painter {
  look: Look = { theme: 'light', pool: 'max', scale: 'log', limits: { low: 1e-7, high: 1 }, bucket: 0 }
  marks: Marks = { cell: null, found: [], sink: false }
  #colours: Ramp = ramp('light')
  #theme: Theme = 'light'
  #version = 0
  readonly #numbers = new Map<number, string>()
  #rows: number[] = []
  #columns: number[] = []
  readonly #list: Slot[] = []

  constructor(public tiles: Tiles) {}

  // New colours: every tile is painted again when it is drawn next.
  recolour(look: Look): void {
    if (look.theme !== this.#theme) {
      this.#theme = look.theme
      this.#colours = ramp(look.theme)
    }
    const { pool, scale, limits, theme } = this.look
    if (pool !== look.pool || scale !== look.scale || theme !== look.theme || limits.low !== look.limits.low || limits.high !== look.limits.high) this.#version++
    this.look = look
  }

  // The tiles that a view touches, into a list that is used again; none where they would be too many.
  touched(view: View, room: Room, bucket: number, into: Slot[]): Slot[] {
    into.length = 0
    const first = this.look.scale !== 'hide'
    if (bucket === WHOLE) {
      into.push(this.tiles.whole[first ? 1 : 0])
      return into
    }
    const { tiles } = this, { queries, keys } = tiles.size
    const last = (start: number, pixels: number, count: number) => Math.ceil(Math.min(count, start + pixels / view.scale) - 1e-9) - 1
    const r0 = tiles.place(bucket, 0, view.y), r1 = tiles.place(bucket, 0, last(view.y, room.height, queries)) + 1
    const c0 = tiles.place(bucket, 1, view.x), c1 = tiles.place(bucket, 1, last(view.x, room.width, keys)) + 1
    if ((r1 - r0) * (c1 - c0) > MOST) return into
    for (let r = r0; r < r1; r++) for (let c = c0; c < c1; c++) into.push(tiles.at(bucket, r, c, first))
    return into
  }

  // The map itself, in a window at (left, top) of the canvas, in CSS pixels; `sharp` is pixels of the device in one. Whether
  // all of it is drawn: pictures of new tiles that one frame has no time for stay sunk paper until the next.
  map(ctx: CanvasRenderingContext2D, view: View, room: Room, left: number, top: number, bucket: number, sharp: number): boolean {
    const { queries, keys } = this.tiles.size, inks = INKS[this.#theme]
    ctx.save()
    ctx.beginPath()
    ctx.rect(left, top, Math.min(room.width, (keys - view.x) * view.scale), Math.min(room.height, (queries - view.y) * view.scale))
    ctx.clip()
    ctx.fillStyle = inks.sunk
    ctx.fillRect(left, top, room.width, room.height)
    ctx.imageSmoothingEnabled = false
    const list = this.touched(view, room, bucket, this.#list), until = performance.now() + PAINTING
    let all = true
    for (let n = 0; n < list.length; n++) {
      if (list[n].tile && !list[n].picture && performance.now() > until) all = false
      else this.#tile(ctx, list[n], view, room, left, top, sharp)
    }
    if (this.look.scale === 'hide') this.#hatch(ctx, view, room, left, top)
    ctx.restore()
    return all
  }

  #tile(ctx: CanvasRenderingContext2D, slot: Slot, view: View, room: Room, left: number, top: number, sharp: number): void {
    if (!slot.tile) return
    const { rows, keys } = slot
    // Edges on whole pixels of the device, so that no seam shows between two tiles.
    const x0 = Math.round((left + (keys[0] - view.x) * view.scale) * sharp) / sharp, x1 = Math.round((left + (keys[1] - view.x) * view.scale) * sharp) / sharp
    const y0 = Math.round((top + (rows[0] - view.y) * view.scale) * sharp) / sharp, y1 = Math.round((top + (rows[1] - view.y) * view.scale) * sharp) / sharp
    if (slot.bucket === 1 && view.scale >= NUMBERS) return this.#cells(ctx, slot, view, room, left, top)
    ctx.fillStyle = INKS[this.#theme].masked
    ctx.fillRect(x0, y0, x1 - x0, y1 - y0)
    ctx.drawImage(this.#picture(slot), x0, y0, x1 - x0, y1 - y0)
  }

  #picture(slot: Slot): HTMLCanvasElement {
    const tile = slot.tile!, width = tile.keys.length - 1, height = tile.rows.length - 1
    if (slot.picture && slot.shaded === this.#version) return slot.picture
    slot.picture ??= document.createElement('canvas')
    slot.picture.width = width
    slot.picture.height = height
    const image = new ImageData(width, height)
    shade(tile, this.look.pool, this.look.scale, this.look.limits, this.#colours, new Uint32Array(image.data.buffer))
    slot.picture.getContext('2d')!.putImageData(image, 0, 0)
    slot.shaded = this.#version
    return slot.picture
  }

  // Cells that are large enough for their numbers.
  #cells(ctx: CanvasRenderingContext2D, slot: Slot, view: View, room: Room, left: number, top: number): void {
    const { rows, keys, tile } = slot, { scale } = view, wide = keys[1] - keys[0], inks = INKS[this.#theme]
    const i0 = Math.max(rows[0], Math.floor(view.y)), i1 = Math.min(rows[1], Math.ceil(view.y + room.height / scale))
    const j0 = Math.max(keys[0], Math.floor(view.x)), j1 = Math.min(keys[1], Math.ceil(view.x + room.width / scale))
    ctx.fillStyle = inks.page
    ctx.fillRect(left + (j0 - view.x) * scale, top + (i0 - view.y) * scale, (j1 - j0) * scale, (i1 - i0) * scale)
    ctx.font = scale >= 40 ? FONTS.large : FONTS.small
    ctx.textAlign = 'center'
    ctx.textBaseline = 'middle'
    const text = (slot.text ??= new Array<string>(wide * (rows[1] - rows[0])))
    for (let i = i0; i < i1; i++) {
      for (let j = j0; j < j1; j++) {
        const n = (i - rows[0]) * wide + j - keys[0], x = left + (j - view.x) * scale, y = top + (i - view.y) * scale
        if (slot.score![n] === -Infinity) {
          ctx.fillStyle = inks.line
          ctx.fillRect(x + scale / 2 - 1, y + scale / 2 - 1, 2, 2)
          continue
        }
        const value = tile!.max[n], at = step(value, tile!.top[i - rows[0]], this.look.scale, this.look.limits)
        ctx.fillStyle = this.#colours.fills[at]
        ctx.beginPath()
        ctx.roundRect(x + 1, y + 1, scale - 2, scale - 2, 4)
        ctx.fill()
        ctx.fillStyle = this.#colours.inks[at]
        ctx.fillText((text[n] ??= digits(value)), x + scale / 2, y + scale / 2 + 0.5)
      }
    }
  }

  // The first token's column where it is hidden.
  #hatch(ctx: CanvasRenderingContext2D, view: View, room: Room, left: number, top: number): void {
    if (view.x >= 1) return
    const inks = INKS[this.#theme], x = left - view.x * view.scale, width = Math.max(view.scale, 2)
    ctx.fillStyle = inks.sunk
    ctx.fillRect(x, top, width, room.height)
    ctx.strokeStyle = inks.line
    ctx.lineWidth = 1
    ctx.beginPath()
    for (let y = -width; y < room.height; y += 6) {
      ctx.moveTo(x, top + y + width)
      ctx.lineTo(x + width, top + y)
    }
    ctx.stroke()
  }

  // Lines to the chosen cell: red down to its key, blue across to its query.
  crosshair(ctx: CanvasRenderingContext2D, view: View, room: Room, left: number, top: number): void {
    const inks = INKS[this.#theme], { cell, sink } = this.marks, { scale } = view
    ctx.save()
    ctx.beginPath()
    ctx.rect(left, top, room.width, room.height)
    ctx.clip()
    if (sink && view.x < 1) {
      ctx.strokeStyle = inks.faint
      ctx.lineWidth = 1
      ctx.setLineDash(DASH)
      ctx.strokeRect(left - view.x * scale + 0.5, top - view.y * scale + 0.5, Math.max(3, scale - 1), this.tiles.size.queries * scale - 1)
      ctx.setLineDash(SOLID)
    }
    if (cell) {
      const x = left + (cell.key + 0.5 - view.x) * scale, y = top + (cell.query + 0.5 - view.y) * scale, half = Math.max(6, scale / 2)
      const large = scale >= NUMBERS
      ctx.lineWidth = 1.5
      ctx.strokeStyle = inks.k
      ctx.beginPath()
      if (large) ctx.roundRect(x - half, top - 6, 2 * half, y - half - top + 6, 5)   // round the numbers, not across them
      else {
        ctx.moveTo(x, top)
        ctx.lineTo(x, y - half)
      }
      ctx.stroke()
      ctx.strokeStyle = inks.q
      ctx.beginPath()
      if (large) ctx.roundRect(left - 6, y - half, x - half - left + 6, 2 * half, 5)
      else {
        ctx.moveTo(left, y)
        ctx.lineTo(x - half, y)
      }
      ctx.stroke()
      ctx.lineWidth = large ? 2 : 1.5
      ctx.strokeStyle = inks.ink
      ctx.beginPath()
      if (large) ctx.roundRect(x - half, y - half, 2 * half, 2 * half, 5)
      else ctx.arc(x, y, 7, 0, 7)
      ctx.stroke()
    }
    ctx.restore()
  }

  // Places along both axes: tokens by number, and by name where every cell has its own.
  axes(ctx: CanvasRenderingContext2D, view: View, room: Room, left: number, top: number, names: Names): void {
    const { queries, keys } = this.tiles.size, inks = INKS[this.#theme], { scale } = view
    const named = scale >= NUMBERS
    this.#ticks(view, room, names)
    ctx.textBaseline = 'middle'
    ctx.textAlign = 'right'
    ctx.font = named ? FONTS.named : FONTS.axis
    ctx.fillStyle = inks.q
    ctx.save()
    ctx.beginPath()
    ctx.rect(0, top - 8, left - 4, room.height + 16)
    ctx.clip()
    if (named) for (let i = Math.floor(view.y); i < Math.min(queries, view.y + room.height / scale); i++) ctx.fillText(names.name('query', i), left - 9, top + (i + 0.5 - view.y) * scale)
    else for (let n = 0; n < this.#rows.length; n++) this.#tick(ctx, this.#rows[n], names.queryStarts, left - 9, top + (this.#rows[n] - view.y) * scale, top, top + room.height)
    ctx.restore()
    ctx.fillStyle = inks.k
    ctx.textAlign = 'center'
    for (let j = Math.floor(view.x); named && j < Math.min(keys, view.x + room.width / scale); j++) {
      const x = left + (j - view.x) * scale
      ctx.save()
      ctx.beginPath()
      ctx.rect(Math.max(x, left), 0, scale - 2, top)
      ctx.clip()
      ctx.fillText(names.name('key', j), x + scale / 2, top - 12)
      ctx.restore()
    }
    if (!named) for (let n = 0; n < this.#columns.length; n++) this.#tick(ctx, this.#columns[n], names.keyStarts, left + (this.#columns[n] - view.x) * scale, top - 12, left, left + room.width)
    ctx.fillStyle = inks.ink
    const { found } = this.marks
    for (let n = 0; n < found.length; n++) {
      const x = (found[n] + 0.5 - view.x) * scale, y = (found[n] + 0.5 - view.y) * scale
      if (x >= 0 && x <= room.width) ctx.fillRect(left + x - 1, top - 5, 2, 4)
      if (y >= 0 && y <= room.height) ctx.fillRect(left - 5, top + y - 1, 4, 2)
    }
  }

  // A number stays within the window's length.
  #tick(ctx: CanvasRenderingContext2D, token: number, starts: Int32Array | null, x: number, y: number, from: number, to: number): void {
    const down = ctx.textAlign === 'right', place = down ? y : x
    if (place < from - 1 || place > to + 1) return
    const text = this.#number(starts ? unitAt(starts, token) : token)
    if (down) ctx.fillText(text, x, Math.min(Math.max(y, from + 5), to - 5))
    else ctx.fillText(text, Math.min(Math.max(x, from + 24), to - 24), y)
  }

  #number(n: number): string {
    let found = this.#numbers.get(n)
    if (found === undefined) {
      if (this.#numbers.size > 5000) this.#numbers.clear()
      this.#numbers.set(n, (found = thousands(n)))
    }
    return found
  }

  // The places that are named change with the zoom, and when one comes to the end of those that were laid out.
  #ticks(view: View, room: Room, names: Names): void {
    const { queries, keys } = this.tiles.size, { scale } = view
    const high = room.height / scale, wide = room.width / scale
    if (scale === this.#tickScale && Math.abs(view.x - this.#tickX) < wide / 2 && Math.abs(view.y - this.#tickY) < high / 2 && names === this.#tickNames) return
    this.#tickScale = scale
    this.#tickX = view.x
    this.#tickY = view.y
    this.#tickNames = names
    this.#rows = ticks(Math.max(0, Math.floor(view.y - high)), Math.min(queries, Math.ceil(view.y + 2 * high)), scale, 76, names.queryStarts)
    this.#columns = ticks(Math.max(0, Math.floor(view.x - wide)), Math.min(keys, Math.ceil(view.x + 2 * wide)), scale, 96, names.keyStarts)
  }

  #tickScale = 0
  #tickX = 0
  #tickY = 0
  #tickNames: Names | null = null
}

const FONTS = { large: `500 12px ${FAMILY}`, small: `500 10px ${FAMILY}`, axis: `11px ${FAMILY}`, named: `12px ${FAMILY}` }
const DASH = [3, 3]
const SOLID: number[] = []

// A weight in a cell: two or three digits, or a power of ten.
function digits(value: number): string {
  if (value >= 0.9995) return '1'
  if (value >= 0.0005) return fixed(value, 3).slice(1)
  return value === 0 ? '0' : value.toExponential(0).replace('-', '\u2212')
}
