import { expect, test } from 'vitest'
import type { Source } from '../../wire/source'
import type { Call } from '../../wire/trace'
import { compared, cosine, Without } from './similarity'

const calls = [0, 1].map((layer) => ({ layer, kind: 'self', queries: 3 }) as Call)
const matrix = (...rows: number[][]) => ({ shape: [rows.length, 2], data: Float32Array.from(rows.flat()) })
const embedded = matrix([1, 0], [0, 2], [3, 3]), first = matrix([1, 0], [-2, 0], [0, 4]), last = matrix([1, 1], [1, 1], [0, 0])

function file(streams: object[], why: string | null = null): Source {
  return { trace: { id: '' }, stream: (call: Call) => Promise.resolve({ call, rows: [], course: { why }, tensors: streams[call.layer] }) } as unknown as Source
}

const chosen = (source: Source, call: Call, token: number) => ({ source, calls, call, token })

test('the cosine of an angle, and of nothing', () => {
  expect(cosine([1, 0], [0, 1])).toBe(0)
  expect(cosine([3, 4], [6, 8])).toBe(1)
  expect(cosine([1, 0], [-2, 0])).toBe(-1)
  expect(cosine([1, 0], [1, 1])).toBeCloseTo(Math.SQRT1_2, 15)
  expect(cosine([0, 0], [1, 1])).toBe(0)
})

test('two tokens of a file, layer by layer', async () => {
  const source = file([{ embedded, start: embedded, output: first }, { embedded, start: embedded, output: last }])
  const found = await compared(chosen(source, calls[0], 0), chosen(source, calls[0], 2))
  expect(found.steps.map((s) => [s.name, s.layer])).toEqual([['embedded', null], ['layer', 0], ['layer', 1]])
  const half = Math.SQRT1_2
  found.steps.forEach(({ cosine }, n) => expect(cosine).toBeCloseTo([half, 0, 0][n], 14))
  found.steps.forEach(({ mean }, n) => expect(mean).toBeCloseTo([(2 * half) / 3, -1 / 3, 1 / 3][n], 14))
  expect(found.steps[0].lengths).toEqual([1, Math.sqrt(18)])
  expect(found.near).toEqual([[0, 0, 1], [1, -1, 0]].map((row) => row.map((x) => expect.closeTo(x, 14))))
})

test('what is added before the first layer is a step of its own', async () => {
  const source = file([{ embedded, start: last, output: first }, { output: last }])
  const found = await compared(chosen(source, calls[1], 0), chosen(source, calls[1], 1))
  expect(found.steps.map((s) => s.name)).toEqual(['embedded', 'start', 'layer', 'layer'])
})

test('a file without streams says so', async () => {
  const source = file([{}, {}], 'the model is too strange')
  await expect(compared(chosen(source, calls[0], 0), chosen(source, calls[0], 1))).rejects.toEqual(new Without('the model is too strange'))
})
