import { fireEvent, render, screen } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test } from 'vitest'
import { call, explorer, source } from '../../made'
import { Supposition } from './whatif.svelte'
import Tools from './Tools.svelte'

function shown(looks = explorer()) {
  const whatif = new Supposition(looks)
  render(Tools, { explorer: looks, whatif })
  return { looks, whatif }
}

const button = (name: string) => screen.getByRole<HTMLButtonElement>('button', { name: new RegExp(`^${name}`) })
const slider = () => screen.getByLabelText<HTMLInputElement>('Sharpness')
const factor = () => document.querySelector('data.factor')!

test('a head is muted and heard again', async () => {
  const { whatif } = shown()
  expect(button('Mute').getAttribute('aria-pressed')).toBe('false')
  await fireEvent.click(button('Mute'))
  expect([whatif.changes, button('Mute').getAttribute('aria-pressed')]).toEqual([['mute 0.0'], 'true'])
  await fireEvent.click(button('Mute'))
  expect(whatif.changes).toEqual([])
})

test('the head, those that share its keys, its layer, or all', async () => {
  const { looks, whatif } = shown()
  expect(screen.getAllByRole('radio').map((radio) => (radio as HTMLInputElement).value)).toEqual(['head', 'group', 'layer', 'all'])
  for (const scope of ['K/V group', 'Layer', 'All heads']) {
    await fireEvent.click(screen.getByLabelText(scope))
    await fireEvent.click(button('Hide first token'))
  }
  expect(whatif.changes).toEqual(['hide-first 0.g0', 'hide-first 0.all', 'hide-first all'])
  looks.source = source({ calls: [call({ kv_heads: 2 })] })      // each has keys of its own
  await tick()
  expect(screen.getAllByRole('radio').map((radio) => (radio as HTMLInputElement).value)).toEqual(['head', 'layer', 'all'])
})

test('an edge is cut where one is chosen', async () => {
  const { whatif } = shown()
  expect(button('Cut the edge').disabled).toBe(true)
  whatif.spot = { query: 2, key: 1 }
  await tick()
  await fireEvent.click(button('Cut the edge'))
  expect([whatif.changes, button('Cut the edge').getAttribute('aria-pressed')]).toEqual([['cut 0.0.2.1'], 'true'])
})

test('scores are sharpened by steps of a quarter octave, and left as they are at 1', async () => {
  const { whatif } = shown()
  const set = async (place: number) => {
    await fireEvent.input(slider(), { target: { value: `${place}` } })
    await fireEvent.change(slider())
  }
  const untouched = Number(slider().value)
  expect([factor().textContent, factor().getAttribute('value')]).toEqual(['as it is', '1'])
  await set(untouched + 4)
  expect([whatif.changes, factor().textContent, slider().getAttribute('aria-valuetext')]).toEqual([['sharpen 0.0=2'], '× 2', 'scores × 2'])
  await set(0)
  expect([whatif.changes, factor().textContent]).toEqual([['sharpen 0.0=0'], '× 0'])
  await set(untouched)
  expect(whatif.changes).toEqual([])
})

test('an address may give any factor, and its number is what is shown', () => {
  const looks = explorer()
  looks.more['whatif.changes'] = 'sharpen 0.0=1.9'
  shown(looks)
  expect([factor().textContent, slider().value]).toEqual(['× 1.9', '21'])      // beside the place of 2
})

test('while the model is not there nothing can be changed', () => {
  const looks = explorer()
  looks.shipped = true
  shown(looks)
  expect([...screen.getAllByRole<HTMLButtonElement>('button'), slider()].every((control) => control.disabled)).toBe(true)
})

test('where nothing can be changed nothing can be pressed', async () => {
  const { whatif } = shown()
  for (const why of [null, 'this model cannot be changed.']) {
    whatif.fixed = why
    await tick()
    expect([...screen.getAllByRole<HTMLButtonElement>('button'), slider()].every((control) => control.disabled)).toBe(true)
  }
})
