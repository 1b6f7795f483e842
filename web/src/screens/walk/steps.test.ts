import { expect, test } from 'vitest'
import { matrixAt, stageAt, STEPS, stepOf } from './steps'

test('the matrices unfold one after another', () => {
  const shown = STEPS.map((_, n) => [0, 1, 2].map((matrix) => stageAt(matrix, n)))
  expect(shown.slice(0, 3)).toEqual(Array(3).fill([null, null, null]))
  expect(shown.slice(3, 7)).toEqual([
    ['dot', null, null], ['dot', 'scaled', null], ['dot', 'masked', null], ['dot', 'masked', 'weight'],
  ])
  expect(new Set(shown.slice(6).map(String)).size).toBe(1)
})

test('each matrix has a step', () => {
  for (const matrix of [0, 1, 2]) expect(matrixAt(STEPS.indexOf(stepOf(matrix)))).toBe(matrix)
  expect(matrixAt(0)).toBe(0)
  expect(matrixAt(13)).toBe(2)
})
