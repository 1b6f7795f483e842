// The slider of sharpness: 0, where all scores are alike, then quarters of an octave from 1/16 to 4; 1 is untouched.
const LOWEST = -4, QUARTERS = 4
export const LAST = 6 * QUARTERS + 1
export const UNTOUCHED = 4 * QUARTERS + 1

export function factor(place: number): number {
  return place <= 0 ? 0 : Number((2 ** (LOWEST + (place - 1) / QUARTERS)).toPrecision(4))
}

// The place that is nearest to a factor, which an address may give as any number.
export function placeOf(given: number): number {
  if (given < 2 ** LOWEST / 2) return 0
  return Math.min(LAST, Math.max(1, Math.round((Math.log2(given) - LOWEST) * QUARTERS) + 1))
}
