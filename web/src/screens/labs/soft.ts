// A soft question to a small table: the formula softmax(q · k / (√d T)) v, with everything on the way.
export interface Table { names: [string, string][]; keys: number[][]; values: number[]; query: number[] }

export interface Asked {
  dots: number[]      // q · k
  scores: number[]    // divided by √d and the temperature
  powers: number[]    // exp(score − the highest score)
  weights: number[]
  shares: number[]    // weight × value
  answer: number
  hard: number        // the mean of the values whose scores are highest
  even: number        // the mean of all values
}

export function ask({ keys, values }: Table, query: number[], temperature: number): Asked {
  const dots = keys.map((key) => sum(key.map((x, n) => x * query[n])))
  const scores = dots.map((dot) => dot / (Math.sqrt(query.length) * temperature))
  const highest = Math.max(...scores), powers = scores.map((score) => Math.exp(score - highest)), all = sum(powers)
  const weights = powers.map((power) => power / all), shares = weights.map((weight, n) => weight * values[n])
  const best = values.filter((_, n) => scores[n] === highest)
  return { dots, scores, powers, weights, shares, answer: sum(shares), hard: sum(best) / best.length, even: sum(values) / values.length }
}

// Temperatures of the slider: powers of 2, and what lies between them.
export const TEMPERATURES = Array.from({ length: 17 }, (_, n) => 2 ** ((n - 8) / 2))

// A query out of the address; null for anything that is none.
export function query(text: string, dimensions: number): number[] | null {
  const found = text.split(',').map(Number)
  return text !== '' && found.length === dimensions && found.every((x) => Number.isFinite(x) && Math.abs(x) <= MOST) ? found : null
}
export const MOST = 16

const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0)
