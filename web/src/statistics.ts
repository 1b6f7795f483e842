// One number for each head, to colour the grid of heads by; all of them from the head's own weights.
import { map } from './attention'
import { keys, queries, type Call } from './wire'

export const STATISTICS = ['entropy', 'certain', 'first', 'distance'] as const
export type Statistic = (typeof STATISTICS)[number]
export type Summary = Record<Statistic, number>

// entropy: mean of a row's, in bits; certain: mean of a row's largest weight; first: mean weight on the first
// token; distance: mean tokens back. The first row of a decoder's own map has no choice and is left out.
export function summary(call: Call, head: number): Summary {
  const weights = map(call, head, 'weight')
  const [rows, columns] = [queries(call), keys(call)]
  const sums: Summary = { entropy: 0, certain: 0, first: 0, distance: 0 }
  const start = call.kind === 'self' && rows > 1 ? 1 : 0
  for (let i = start; i < rows; i++) {
    let largest = 0
    for (let j = 0; j < columns; j++) {
      const w = weights[i * columns + j]
      if (!(w > 0)) continue
      sums.entropy -= w * Math.log2(w)
      sums.distance += w * Math.abs(columns - rows + i - j)
      largest = Math.max(largest, w)
    }
    sums.certain += largest
    sums.first += weights[i * columns] || 0
  }
  for (const name of STATISTICS) sums[name] /= rows - start
  return sums
}
