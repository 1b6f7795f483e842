// Numbers as people read them: a true minus sign, and no digit that was not computed.
const MINUS = '\u2212'

export function fixed(x: number, digits: number): string {
  if (x === Infinity) return '∞'
  if (x === -Infinity) return `${MINUS}∞`
  const text = Math.abs(x).toFixed(digits)
  return x < 0 && Number(text) !== 0 ? MINUS + text : text
}

// Four digits after the point where they say something, else a power of ten.
export function plain(x: number): string {
  const size = Math.abs(x)
  if (x === 0 || !Number.isFinite(x) || (size >= 1e-3 && size < 1e5)) return fixed(x, size >= 1000 ? 1 : 4)
  return short(x)
}

// 1.3e−7
export function short(x: number): string {
  return x === 0 ? '0' : x.toExponential(1).replaceAll('-', MINUS).replace('e+', 'e')
}

// What is at most so much: rounded up, so that it holds.
export function bound(x: number): string {
  const [digits, power] = x.toExponential(1).split('e')
  return Number(`${digits}e${power}`) >= x ? short(x) : short(Number(`${Math.round(10 * Number(digits)) + 1}e${Number(power) - 1}`))
}

// A share as a percentage: two digits after the point, more where it would be nought.
export function percent(p: number): string {
  if (p === 0) return '0 %'
  const digits = p >= 0.001 ? 2 : p >= 1e-6 ? 4 : 0
  return digits ? `${fixed(100 * p, digits)} %` : `${short(100 * p)} %`
}

// The next larger percentage that percent() can write.
export function percentBound(p: number): string {
  const digits = p >= 0.001 ? 2 : p >= 1e-6 ? 4 : 0
  if (!digits) return `${bound(100 * p)} %`
  const near = Number((100 * p).toFixed(digits))
  return `${fixed(near >= 100 * p ? near : near + 10 ** -digits, digits)} %`
}

export const wholePercent = (p: number): string => (p > 0 && p < 0.005 ? '< 1 %' : `${fixed(100 * p, 0)} %`)

export const thousands = (n: number): string => n.toLocaleString('en')

// Bits: three digits after the point; a small number has two that say something.
export const bits = (x: number): string => (x === 0 || x >= 0.01 ? fixed(x, 3) : String(Number(x.toPrecision(2))).replace('-', '\u2212'))

export function signed(x: number, digits: number): string {
  const text = fixed(x, digits)
  return x > 0 && Number(text) !== 0 ? `+${text}` : text
}
