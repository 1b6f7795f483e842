import { expect, test } from 'vitest'
import type { Film } from './film.svelte'
import { shown } from './shown'

const trace = (id: string, tokens: number, predicted: number) => ({
  id, tokens: Array.from({ length: tokens }, String), predicted, calls: [{ index: 0, kind: 'encoder' }, { index: 1, kind: 'self' }, { index: 2, kind: 'cross' }],
})
const strip = (id: string, start: number, tokens: number, predicted = tokens) => ({ start, source: { trace: trace(id, tokens, predicted) } })
const film = (strips: object[], chosen: number, at: number, kind: string | null) => ({ strips, chosen, at, kind }) as unknown as Film

test('a film up to its open step, and its branch', () => {
  const found = shown(film([strip('a/1', 4, 10), strip('b', 4, 9)], 1, 2, 'cross'), 7, 0)
  expect(found).toMatchObject({ path: 'api/traces/a%2F1/steps/4', asked: { stop: '7', other: 'b' }, call: { index: 2 }, view: { 'film.at': '5' } })
  expect(shown(film([strip('a', 4, 10)], 0, 0, null), 1, 0)).toMatchObject({ asked: { stop: '5' }, call: { index: 1 } })
})

test('a file begins where its probabilities do', () => {
  expect(shown(film([strip('a', 4, 10, 3)], 0, 4, null), 0, 0)!.view).toEqual({ 'film.at': '0' })
})

test('what is only being written is not saved yet', () => {
  expect(shown(film([{ start: 4, source: null }], 0, 0, null), 0, 0)).toBeNull()
  expect(shown(film([], 0, 0, null), 0, 0)).toBeNull()
})
