import { expect, test } from 'vitest'
import type { Comparing } from './compare.svelte'
import { shown } from './shown'

const side = (id: string) => ({ source: { trace: { id } }, call: { index: 3 } })
const comparing = (ids: string[] | null, tokens: number[]) => ({ sides: ids?.map(side) ?? null, tokens }) as unknown as Comparing

test('both sides by their ids; a page in a file has tokens of the one text that it carries', () => {
  expect(shown(comparing(['x', 'y'], [2, 5]))).toMatchObject({ path: 'api/comparisons', asked: { a: 'x', b: 'y', token_a: '2', token_b: '5' }, call: { index: 3 }, view: {} })
  expect(shown(comparing(['x', 'x'], [2, 5]))!.view).toEqual({ 'compare.a': '2', 'compare.b': '5' })
  expect(shown(comparing(null, [0, 0]))).toBeNull()
})
