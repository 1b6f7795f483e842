// The fourteen steps of a walk through one layer, in their order.
import type { Stage } from '../../wire/attention'

export const STEPS = [
  'embedding', 'norm', 'qkv', 'scores', 'scale', 'mask', 'softmax', 'mixed', 'join', 'projected', 'residual', 'feed', 'next', 'probabilities',
] as const
export type Step = (typeof STEPS)[number]

export const MATRICES = ['scores', 'scaled', 'softmax'] as const   // those of the panel
const BEGINS = [STEPS.indexOf('scores'), STEPS.indexOf('scale'), STEPS.indexOf('softmax')]

// What a matrix of the panel shows at a step; null before the walk has come to it.
export function stageAt(matrix: number, step: number): Stage | null {
  if (step < BEGINS[matrix]) return null
  return matrix === 0 ? 'dot' : matrix === 2 ? 'weight' : STEPS[step] === 'scale' ? 'scaled' : 'masked'
}

// The matrix that a step is about; before and after the panel the nearest.
export const matrixAt = (step: number): number => Math.max(0, BEGINS.filter((begin) => step >= begin).length - 1)

// The step that shows a matrix in full.
export const stepOf = (matrix: number): Step => (['scores', 'mask', 'softmax'] as const)[matrix]
