// What moves the view: fingers and wheel at once, keys and links in a short flight that anything else interrupts.
import type { Cell } from '../../state/hash'
import { around, clamp, fit, inView, smallest, zoom, type Room, type Size, type View } from './view'

const FLIGHT = 220   // milliseconds of a flight

export class Moving {
  view: View = { x: 0, y: 0, scale: 1 }   // as it is drawn now
  room: Room = { width: 0, height: 0 }
  size: Size = { queries: 1, keys: 1 }
  #flight: { from: View; to: View; since: number } | null = null

  // `moved` is told of every new view, `left` where a flight will end.
  constructor(private readonly moved: () => void, private readonly left: (to: View) => void) {}

  // Where the view is, or will be when it has arrived.
  get target(): View {
    return this.#flight?.to ?? this.view
  }

  // The place in the middle of the view.
  get middle(): Cell {
    const { x, y, scale } = this.view, { width, height } = this.room
    return { query: Math.floor(y + height / scale / 2), key: Math.floor(x + width / scale / 2) }
  }

  inView({ query, key }: Cell): boolean {
    const { rows, keys } = inView(this.view, this.room, this.size)
    return query >= rows[0] && query < rows[1] && key >= keys[0] && key < keys[1]
  }

  // At once: so many tokens about a place, or all of them.
  start(at: Cell, tokens: number): void {
    this.stop()
    this.view = tokens >= 1 ? around(at.query, at.key, tokens, this.room, this.size) : fit(this.room, this.size)
  }

  // Another window shows the same tokens.
  resize(room: Room): void {
    const whole = this.view.scale <= smallest(this.room, this.size) * 1.001
    this.stop()
    this.view.scale *= room.width / this.room.width
    this.room = room
    if (whole) this.view = fit(room, this.size)
    else clamp(this.view, room, this.size)
  }

  stop(): void {
    this.#flight = null
  }

  drag(dx: number, dy: number): void {
    this.stop()
    this.view.x -= dx / this.view.scale
    this.view.y -= dy / this.view.scale
    clamp(this.view, this.room, this.size)
    this.moved()
  }

  zoomAt(px: number, py: number, factor: number): void {
    this.stop()
    zoom(this.view, px, py, factor, this.room, this.size)
    this.moved()
  }

  // In a step, about a cell or the middle.
  zoomBy(factor: number, about: Cell | null): void {
    const from = this.target, { width, height } = this.room
    const px = about ? (about.key + 0.5 - from.x) * from.scale : width / 2, py = about ? (about.query + 0.5 - from.y) * from.scale : height / 2
    this.fly(zoom({ ...from }, px, py, factor, this.room, this.size))
  }

  pan(across: number, down: number): void {
    const from = this.target, step = Math.min(this.room.width, this.room.height) / 6 / from.scale
    this.fly(clamp({ ...from, x: from.x + across * step, y: from.y + down * step }, this.room, this.size))
  }

  fly(to: View): void {
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) {
      this.stop()
      this.view = to
      this.moved()
      return
    }
    this.#flight = { from: { ...this.view }, to, since: performance.now() }
    this.left(to)
  }

  // The view at a moment of a flight; whether it goes on.
  advance(now: number): boolean {
    if (!this.#flight) return false
    const { from, to, since } = this.#flight, part = Math.min(1, Math.max(0, (now - since) / FLIGHT))
    const eased = part === 1 ? 1 : 1 - 2 ** (-10 * part), { view } = this
    view.scale = from.scale * (to.scale / from.scale) ** eased
    const share = Math.abs(to.scale / from.scale - 1) < 1e-9 ? eased : (1 / view.scale - 1 / from.scale) / (1 / to.scale - 1 / from.scale)
    view.x = from.x + (to.x - from.x) * share
    view.y = from.y + (to.y - from.y) * share
    if (part < 1) return true
    this.stop()
    this.moved()
    return false
  }
}
