import { render } from '@testing-library/svelte'
import { expect, test } from 'vitest'
import { bars } from './palette'
import Ramp from './Ramp.svelte'

test('both limits stand beside the bar, the upper one with its unit', () => {
  const { container } = render(Ramp, { image: bars.weight('light'), low: '0', high: '2.35', unit: 'bits' })
  const [low, bar, high] = container.querySelector('.ramp')!.children
  expect([low.textContent, high.textContent]).toEqual(['0', '2.35 bits'])
  expect((bar as HTMLElement).style.backgroundImage).toMatch(/^linear-gradient\(to right, #fdfbf6,.*#542613\)$/)
})
