import { render, screen } from '@testing-library/svelte'
import { expect, test } from 'vitest'
import Rates from './Rates.svelte'

const style = (css: string, name: 'left' | 'width') => [...document.querySelectorAll<HTMLElement>(css)].map((e) => parseFloat(e.style[name]))

test('bars are shares, lines are intervals, and chance has none', () => {
  render(Rates, {
    lines: [{ name: 'a head', share: 0.625, low: 0.5, high: 0.75, count: 1240, strong: true }, { name: 'chance', share: 0.5, low: 0.4, high: 0.6, count: 8, bounded: false }],
    chance: 0.5, label: 'rates', name: 'answer', right: 'right', interval: 'interval', count: 'pairs',
  })
  expect([style('.bar', 'width'), style('.reach', 'left'), style('.reach', 'width')]).toEqual([[62.5, 50], [50], [25]])
  expect([...document.querySelectorAll('tbody tr')].map((row) => row.textContent!.replaceAll(/\s+/g, ' ').trim()))
    .toEqual(['a head62.5 %50.0 … 75.01,240', 'chance50.0 %8'])
  expect(screen.getByRole('table', { name: 'rates' }).getAttribute('style')).toContain('50%')
})
