import { expect, test } from 'vitest'
import { bits, signed } from '../../parts/numbers'
import { limits, ordered, share, type Effect } from './ranks'

const effects: Effect[] = [
  { layer: 0, head: 0, kind: 'self', divergence: 0.5, change: 0.25 },
  { layer: 0, head: 1, kind: 'self', divergence: 2, change: -0.5 },
  { layer: 1, head: 0, kind: 'self', divergence: 1, change: -3 },
]
const names = (list: Effect[]) => list.map(({ layer, head }) => `${layer}.${head}`)

test('what is missed most comes first', () => {
  expect(names(ordered(effects, 'divergence'))).toEqual(['0.1', '1.0', '0.0'])
  expect(names(ordered(effects, 'change'))).toEqual(['1.0', '0.1', '0.0'])
})

test('the ramp ends at what is missed most', () => {
  expect(limits(effects, 'divergence')).toEqual([0, 2])
  expect(limits(effects, 'change')).toEqual([0.25, -3])
  expect([share(1, [0, 2]), share(-3, [0.25, -3]), share(-1.375, [0.25, -3]), share(0, [0, 0])]).toEqual([0.5, 1, 0.5, 0])
})

test('bits have three digits after the point, or two that say something', () => {
  expect([0, 0.01234, 0.0012345, 4.2e-8].map(bits)).toEqual(['0.000', '0.012', '0.0012', '4.2e\u22128'])
  expect([1.5, -0.25, 0, -1e-9].map((x) => signed(x, 3))).toEqual(['+1.500', '\u22120.250', '0.000', '0.000'])
})
