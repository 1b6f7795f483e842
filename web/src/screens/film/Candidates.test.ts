import { fireEvent, render, screen } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test, vi } from 'vitest'
import { CANDIDATES, explorer, HOSTILE, source } from '../../made'
import Candidates from './Candidates.svelte'
import { Film } from './film.svelte'
import { Strip, type Logits } from './strip.svelte'

// A film of one strip, whose only step took "two"; its logits give the tokens 7, 3 and 9 five eighths, a quarter and an eighth.
function shown(logits: () => Promise<Logits | null>, model = 'tiny') {
  const looks = explorer(), film = new Film(looks), strip = new Strip(['⟨s⟩', 'one'], null)
  looks.model = model
  strip.told(source(), { start: 2, steps: [{ id: 3, token: 'two', p: 0.25, rank: 2, candidates: CANDIDATES }] })
  vi.spyOn(strip, 'logits').mockImplementation(logits)
  film.strips = [strip]
  render(Candidates, { explorer: looks, film, strip, name: '' })
  return { looks, film }
}

const values = Float32Array.from({ length: 10 }, (_, id) => Math.log({ 7: 0.625, 3: 0.25, 9: 0.125 }[id] ?? 1e-30))
const known = () => Promise.resolve({ candidates: CANDIDATES, values })
const settled = async () => { await Promise.resolve(); await Promise.resolve(); await tick() }
const rows = () => screen.getAllByRole('listitem').map((row) => [row.querySelector('bdi')!.textContent, row.querySelector('data')!.textContent])

test('until the logits are there, what the step was told with', async () => {
  shown(() => new Promise(() => undefined))
  await settled()
  expect(rows()).toEqual([[HOSTILE, '62.50 %'], ['two', '25.00 %'], ['too', '0.13 %']])
  expect(document.querySelector('img')).toBeNull()
})

test('the sliders rescale them, and the chosen one is marked', async () => {
  const { film } = shown(known)
  await settled()
  expect(rows()).toEqual([[HOSTILE, '62.50 %'], ['two', '25.00 %'], ['too', '12.50 %']])
  expect(document.querySelector('li.chosen bdi')!.textContent).toBe('two')
  film.resample({ temperature: 0.5 })      // squares: 25 : 4 : 1
  await tick()
  expect(rows().map(([, p]) => p)).toEqual(['83.33 %', '13.33 %', '3.33 %'])
  film.resample({ temperature: 0 })
  await tick()
  expect(rows().map(([, p]) => p)).toEqual(['100.00 %', '0 %', '0 %'])
  film.resample({ temperature: 1, top_k: 2 })
  await tick()
  expect(rows().map(([, p]) => p)).toEqual(['71.43 %', '28.57 %', '0 %'])
})

test('one branches to any but the chosen one', async () => {
  const { film } = shown(known), branch = vi.spyOn(film, 'branch').mockResolvedValue()
  await settled()
  expect(screen.getAllByRole('button').map((button) => button.getAttribute('aria-label'))).toEqual([`branch here to ${HOSTILE}`, 'branch here to too'])
  await fireEvent.click(screen.getByRole('button', { name: 'branch here to too' }))
  expect(branch.mock.calls).toEqual([[9]])
  film.writing = true
  await tick()
  expect(screen.getAllByRole<HTMLButtonElement>('button').every((button) => button.disabled)).toBe(true)
})

test('a saved text has no branches', async () => {
  const { looks } = shown(known, 'saved.klieg')
  looks.files = ['saved.klieg']
  await settled()
  expect(screen.queryAllByRole('button')).toEqual([])
})
