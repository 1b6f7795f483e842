// How the numbers of a stage become colours and digits in the cells of a map.
import type { Stage } from '../wire/attention'
import type { Scale } from '../state/hash'
import { fixed } from './numbers'
import { signed, weight, type Colour, type Theme } from './palette'

export const FLOOR = 1e-4   // the logarithmic scale starts here

// The upper limit of the ramp: the largest number shown; scores are symmetric about 0.
export function limit(numbers: Float64Array, columns: number, stage: Stage, scale: Scale): number {
  let largest = 0
  for (let n = 0; n < numbers.length; n++) {
    if (scale === 'hide' && n % columns === 0) continue
    const size = Math.abs(numbers[n])
    if (size > largest && size < Infinity) largest = size
  }
  if (stage === 'weight' && scale === 'log') return 1
  return largest || 1
}

export function colour(value: number, top: number, stage: Stage, scale: Scale, theme: Theme): Colour {
  if (stage !== 'weight') return signed(value / top, theme)
  return weight(scale === 'log' ? 1 - Math.log10(Math.max(value, FLOOR)) / Math.log10(FLOOR) : value / top, theme)
}

// As many digits as a cell of `size` pixels holds; none where it holds none.
export function digits(value: number, size: number, stage: Stage): string {
  if (stage !== 'weight') return size >= 42 ? fixed(value, 2) : size >= 34 ? fixed(value, 1) : ''
  if (size >= 34) return fixed(value, 2)
  return size >= 22 && value >= 0.01 ? fixed(100 * value, 0) : ''
}
