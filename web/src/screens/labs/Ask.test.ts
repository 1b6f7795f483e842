import { fireEvent, render } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test } from 'vitest'
import { explorer } from '../../made'
import Ask from './Ask.svelte'

const table = {
  names: [['a 张', '张某'], ['a 张', '张某'], ['another', '另一位'], ['a 张', '张某']] as [string, string][],
  keys: [[1, 2, 0], [1, 2, 0], [0, 0, 2], [1, 4, 0]], values: [18, 20, 22, 19], query: [1, 0, 0],
}

const weights = () => [...document.querySelectorAll<HTMLDataElement>('data.weight')].map((e) => Number(e.value))
const answer = () => Number(document.querySelector<HTMLDataElement>('data.answer')!.value)

test('as at first, asked harder and colder, and as at first again', async () => {
  const looks = explorer()
  render(Ask, { explorer: looks, table })
  const one = Math.exp(1 / Math.sqrt(3)), all = 3 * one + 1
  expect(weights()[2]).toBeCloseTo(1 / all, 12)
  expect(answer()).toBeCloseTo((57 * one + 22) / all, 12)
  await fireEvent.input(document.querySelector('[data-dimension="0"]')!, { target: { value: '4' } })
  expect(looks.more['labs.q']).toBe('4,0,0')
  const four = Math.exp(4 / Math.sqrt(3))
  expect(weights()[0]).toBeCloseTo(four / (3 * four + 1), 12)
  await fireEvent.input(document.querySelector('#temperature')!, { target: { value: '0' } })
  expect([looks.more['labs.t'], answer()]).toEqual(['0.0625', 19])
  await fireEvent.click(document.querySelector('header button')!)
  expect(looks.more).toEqual({})
  expect(answer()).toBeCloseTo((57 * one + 22) / all, 12)
})

test('the address says the query; nonsense is as at first', async () => {
  const looks = explorer()
  Object.assign(looks.more, { 'labs.q': '0,2,0', 'labs.t': '4' })
  render(Ask, { explorer: looks, table })
  expect(weights()[3]).toBeGreaterThan(weights()[0])
  Object.assign(looks.more, { 'labs.q': '1,2', 'labs.t': 'warm' })
  await tick()
  expect(weights()[3]).toBe(weights()[0])
})
