import { expect, test } from 'vitest'
import { filtered } from './sampling'

const p = [0.5, 0.05, 0.3, 0.15]            // by hand
const logits = p.map(Math.log)
const close = (found: Float64Array, wanted: number[]) => wanted.forEach((x, id) => expect(found[id]).toBeCloseTo(x, 12))

test('the model’s own probabilities at temperature 1', () => close(filtered(logits, { temperature: 1, top_k: 0, top_p: 1 }), p))

test('a temperature of one half squares them', () => {
  const sum = 0.25 + 0.0025 + 0.09 + 0.0225
  close(filtered(logits, { temperature: 0.5, top_k: 0, top_p: 1 }), [0.25 / sum, 0.0025 / sum, 0.09 / sum, 0.0225 / sum])
})

test('top-k keeps the k largest, and what is as large as the last of them', () => {
  close(filtered(logits, { temperature: 1, top_k: 2, top_p: 1 }), [0.625, 0, 0.375, 0])
  close(filtered([1, 0, 0, -9], { temperature: 1, top_k: 2, top_p: 1 }), [1, 1 / Math.E, 1 / Math.E, 0].map((x) => x / (1 + 2 / Math.E)))
  close(filtered(logits, { temperature: 1, top_k: 9, top_p: 1 }), p)
})

test('top-p keeps the likeliest until their sum is reached, and always one', () => {
  close(filtered(logits, { temperature: 1, top_k: 0, top_p: 0.79 }), [0.625, 0, 0.375, 0])
  close(filtered(logits, { temperature: 1, top_k: 0, top_p: 0.81 }), [0.5 / 0.95, 0, 0.3 / 0.95, 0.15 / 0.95])
  close(filtered(logits, { temperature: 1, top_k: 0, top_p: 1e-9 }), [1, 0, 0, 0])
})

test('top-p is taken of what top-k left', () =>
  close(filtered(logits, { temperature: 1, top_k: 2, top_p: 0.6 }), [1, 0, 0, 0]))

test('temperature 0 takes the likeliest', () => close(filtered(logits, { temperature: 0, top_k: 0, top_p: 1 }), [1, 0, 0, 0]))
