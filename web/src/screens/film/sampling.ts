// What temperature, top-k and top-p make of logits: klieg/generate.py again, in the browser and in double precision.

export interface Sampling { temperature: number; top_k: number; top_p: number }   // top_k 0 keeps all
// How a strip was written: by chance, or null where always the likeliest token was taken.
export type Choice = (Sampling & { seed: number }) | null

export const OWN: Sampling = { temperature: 1, top_k: 0, top_p: 1 }

// Probabilities of the whole vocabulary; temperature 0 leaves the likeliest alone.
export function filtered(logits: ArrayLike<number>, { temperature, top_k, top_p }: Sampling): Float64Array {
  let best = 0
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id
  const p = new Float64Array(logits.length)
  if (temperature === 0) {
    p[best] = 1
    return p
  }
  const least = 0 < top_k && top_k < logits.length ? Float64Array.from(logits).sort()[logits.length - top_k] : -Infinity
  for (let id = 0; id < p.length; id++) {
    if (logits[id] >= least) p[id] = Math.exp((logits[id] - logits[best]) / temperature)
  }
  normed(p)
  if (top_p < 1) {
    const order = Array.from(p.keys()).filter((id) => p[id] > 0).sort((a, b) => p[b] - p[a])
    let before = 0
    for (const id of order) {
      const own = p[id]
      if (before >= top_p) p[id] = 0
      before += own
    }
    normed(p)
  }
  return p
}

function normed(p: Float64Array): void {
  let sum = 0
  for (const x of p) sum += x
  for (let id = 0; id < p.length; id++) p[id] /= sum
}

// How something was drawn, in the address: "temperature top_k top_p seed".
export const said = (choice: Choice): string => (choice ? [choice.temperature, choice.top_k, choice.top_p, choice.seed].join(' ') : '')

export function sampled(text = ''): Sampling | null {
  const [temperature, top_k, top_p] = text.split(' ').map(Number)
  return temperature >= 0 && top_k >= 0 && top_p > 0 && top_p <= 1 ? { temperature, top_k: Math.floor(top_k), top_p } : null
}

export function chosen(text = ''): Choice {
  const sampling = sampled(text), seed = text.split(' ')[3] ?? ''
  return sampling && /^\d{1,9}$/.test(seed) ? { ...sampling, seed: Number(seed) } : null
}
