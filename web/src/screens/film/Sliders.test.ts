import { fireEvent, render, screen } from '@testing-library/svelte'
import { expect, test } from 'vitest'
import { explorer, source } from '../../made'
import { Explorer } from '../../state/explorer.svelte'
import { Film } from './film.svelte'
import Sliders from './Sliders.svelte'

function shown(more: Record<string, string> = {}) {
  const looks = explorer()
  Object.assign(looks.more, more)
  const film = new Film(looks)
  render(Sliders, { explorer: looks, film })
  return { looks, film }
}

const sliders = () => screen.getAllByRole<HTMLInputElement>('slider')
const said = () => [...document.querySelectorAll('output')].map((output) => output.textContent)

test('a slider changes the sampling, its number, and the address', async () => {
  const { looks, film } = shown()
  expect(sliders().map((slider) => slider.labels?.[0]?.textContent?.trim().split(/\s/)[0])).toEqual(['Temperature', 'Top-k', 'Top-p'])
  expect(said()).toEqual(['1.00', 'off', '1.00'])
  const [temperature, topK, topP] = sliders()
  await fireEvent.input(temperature, { target: { value: '0.7' } })
  await fireEvent.input(topK, { target: { value: '7' } })       // the places are 1, 2, 3, 4, 5, 8, 10, 15 …
  await fireEvent.input(topP, { target: { value: '0.9' } })
  expect(film.sampling).toEqual({ temperature: 0.7, top_k: 15, top_p: 0.9 })
  expect([said(), looks.more['film.sampling']]).toEqual([['0.70', '15', '0.90'], '0.7 15 0.9'])
  await fireEvent.input(topK, { target: { value: topK.max } })
  expect([film.sampling.top_k, said()[1], topK.getAttribute('aria-valuetext')]).toEqual([0, 'off', 'off'])
})

test('an address sets them', () => {
  shown({ 'film.sampling': '0.5 40 0.8' })
  expect([said(), sliders().map((slider) => slider.value)]).toEqual([['0.50', '40', '0.80'], ['0.5', '10', '0.8']])
})

test('the next tokens are the likeliest, or drawn by chance', async () => {
  const { film } = shown()
  expect([film.drawn, film.choice]).toEqual([false, null])
  await fireEvent.click(screen.getByLabelText('By chance'))
  expect([film.drawn, film.choice]).toEqual([true, { temperature: 1, top_k: 0, top_p: 1, seed: 0 }])
})

test('a file keeps no logits, and says so', () => {
  const looks = new Explorer('')
  looks.source = source()
  render(Sliders, { explorer: looks, film: new Film(looks) })
  expect([screen.queryAllByRole('slider').length, document.body.textContent]).toEqual([0, expect.stringContaining('nothing to re-draw')])
})
