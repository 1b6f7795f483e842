import { render, screen } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test } from 'vitest'
import { CANDIDATES, explorer, HOSTILE, source } from '../made'
import type { Candidate } from '../wire/trace'
import NextTokens from './NextTokens.svelte'

const settled = async () => { await Promise.resolve(); await tick() }
const rows = () => screen.queryAllByRole('listitem').map((row) => [...row.children].map((part) => part.textContent!.trim()))

test('the likeliest stand in their order, as long as their shares', async () => {
  const looks = explorer()
  render(NextTokens, { explorer: looks, over: 'softmax over 16' })
  await settled()
  expect(rows()).toEqual([[HOSTILE, '', '62.50 %'], ['two', '', '25.00 %'], ['too', '', '0.13 %']])
  expect(document.querySelector('img')).toBeNull()
  expect([...document.querySelectorAll('data')].map((data) => data.getAttribute('value'))).toEqual(['0.625', '0.25', '0.00125'])
  expect([...document.querySelectorAll<HTMLElement>('.bar i')].map((bar) => bar.style.width)).toEqual(['100%', '40%', '0.2%'])
  expect(screen.getByRole('heading').textContent).toBe(`Next token after “${HOSTILE}”`)
  looks.language = 'zh'
  await tick()
  expect(screen.getByRole('heading').textContent).toContain('之后的下一个词')
})

test('some further down have their rank', async () => {
  render(NextTokens, { explorer: explorer(), most: 1, ranks: [3, 30], rank: (n: number) => `rank ${n}` })
  await settled()
  expect(rows()).toEqual([[HOSTILE, '', '62.50 %'], ['too', 'rank 3', '0.13 %']])
})

test('what was asked for another token comes too late', async () => {
  const waiting = new Map<number, (found: Candidate[]) => void>()
  const looks = explorer(source({}, (after) => new Promise((answer) => waiting.set(after, answer))))
  render(NextTokens, { explorer: looks })
  await tick()
  looks.cell = { query: 1, key: 0 }
  await tick()
  waiting.get(1)!(CANDIDATES.slice(1, 2))
  await settled()
  waiting.get(2)!(CANDIDATES)
  await settled()
  expect(rows()).toEqual([['two', '', '25.00 %']])
})

test('a trace without predictions says so', async () => {
  render(NextTokens, { explorer: explorer(source({}, () => Promise.reject(new Error('none')))) })
  await settled()
  expect([rows(), screen.getByText('This trace has no prediction after this token.').tagName]).toEqual([[], 'P'])
})
