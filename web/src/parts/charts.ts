// A chart as the server tells it: series of numbers over the same points, words in English and Chinese. See klieg/views/chart.py.
export type Pair = [en: string, zh: string]
export interface Chart { title: Pair; name: Pair; points: string[]; unit: Pair; series: { name: Pair; values: number[] }[]; bars: boolean; logarithmic?: boolean }

// From 0, but for lines that are all far from it; what is below 0 is shown too. On powers of ten 0 has no place.
export function limits({ series, bars, logarithmic }: Pick<Chart, 'series' | 'bars' | 'logarithmic'>): [low: number, high: number] {
  const values = series.flatMap((one) => one.values).filter((value) => !logarithmic || value > 0)
  if (!values.length) return [0.1, 1]
  const high = Math.max(...values), low = Math.min(...values)
  if (logarithmic) return low === high ? [low / 10, high] : [low, high]
  if (low === high) return low === 0 ? [0, 1] : [Math.min(low, 0), Math.max(high, 0)]
  return [!bars && low > high / 2 ? low : Math.min(low, 0), Math.max(high, 0)]
}

// How far down from the top a number stands, 0 to 1; null where it has no place.
export function depth(value: number, [low, high]: [number, number], logarithmic = false): number | null {
  if (!logarithmic) return (high - value) / (high - low)
  return value > 0 ? Math.log(high / value) / Math.log(high / low) : null
}

// Four digits that say something.
export const four = (x: number): string =>
  (Math.abs(x) >= 1e4 ? Math.round(x).toLocaleString('en') : String(Number(x.toPrecision(4)))).replaceAll('-', '\u2212')

// Every how many points one has room for its name.
export const every = (points: string[], room: number): number =>
  Math.max(1, Math.ceil((points.length * (Math.max(...points.map((point) => point.length)) * 7 + 10)) / Math.max(room, 1)))
