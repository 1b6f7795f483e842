import { fireEvent, render, screen } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test } from 'vitest'
import { explorer, head, HOSTILE } from '../made'
import Card from './Card.svelte'

function shown(query: number, key: number) {
  const looks = explorer()
  looks.cell = { query, key }
  render(Card, { explorer: looks })
  return looks
}

const value = (name: string) => Number(document.querySelector(`data.${name}`)!.getAttribute('value'))
const texts = (css: string) => [...document.querySelectorAll(css)].map((e) => e.textContent!.trim())

test('every number from the factors to the weight', () => {
  shown(2, 1)
  const weight = Math.exp(2) / (2 + Math.exp(2))
  expect([texts('tr.q td'), texts('tr.k td'), texts('tr.sums td')]).toEqual([['2.000', '1.000'], ['1.000', '2.000'], ['2.000', '2.000']])
  expect([value('dot'), value('scaled')]).toEqual([4, 2])
  expect(value('weight')).toBeCloseTo(weight, 12)
  expect(texts('data.weight, data.headline')).toEqual([weight.toFixed(4), weight.toFixed(4)])
  expect(texts('.fraction > span')).toEqual(['e2.0000 = 7.3891', '1.0000 + 7.3891 + 1.0000'])
})

test('tokens are text', () => {
  shown(2, 1)
  expect([texts('.pill'), document.querySelector('img')]).toEqual([[HOSTILE, 'one'], null])
})

test('a hidden key has its reason and no weight', async () => {
  const looks = shown(1, 2)
  expect(screen.getByText('future positions')).toBeTruthy()
  expect([texts('dd.mask'), texts('data.weight'), document.querySelector('.headline')]).toEqual([['−∞'], ['0.0000'], null])
  looks.language = 'zh'
  await tick()
  expect(screen.getByText('未来的位置')).toBeTruthy()
})

test('of many products the largest, what the others add up to, and all that are asked for', async () => {
  const looks = explorer(), made = head()
  const q = Float32Array.from({ length: 60 }, (_, n) => (n % 20) + 1), k = new Float32Array(60).fill(0.5)   // 20 products for each pair
  looks.opened = { ...made, d: 20, q, k }
  looks.cell = { query: 2, key: 0 }
  render(Card, { explorer: looks })
  const all = screen.getByRole('button', { name: 'Show all 20' })
  expect([texts('tr.q td.factor').length, texts('tr.sums td').at(-1)]).toEqual([16, '5.000'])   // of 1 to 4, halved
  await fireEvent.click(all)
  expect([texts('tr.q td.factor').length, texts('tr.sums td').length, all.getAttribute('aria-pressed'), all.textContent!.trim()])
    .toEqual([20, 20, 'true', 'Show the largest'])
  expect(looks.allProducts).toBe(true)
})
