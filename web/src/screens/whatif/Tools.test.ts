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

test('heads see only what a pattern keeps, once for the same heads, and all of it again', async () => {
  const { whatif } = shown()
  const size = () => document.querySelector<HTMLInputElement>('#keep-size')!
  await fireEvent.change(size(), { target: { value: '3' } })
  await fireEvent.click(button('Apply'))
  expect([whatif.changes, button('Take back').getAttribute('aria-pressed')]).toEqual([['keep 0.0=window:3'], 'true'])
  await fireEvent.change(document.querySelector('#keep-global')!, { target: { value: '1' } })
  await fireEvent.click(button('Apply'))
  expect(whatif.changes).toEqual(['keep 0.0=window:3+global:1'])
  await fireEvent.change(screen.getByLabelText<HTMLSelectElement>('See only'), { target: { value: 'top' } })
  expect(document.querySelector('#keep-global')).toBeNull()
  await fireEvent.click(screen.getByLabelText('Layer'))      // another scope has none
  expect(size().value).toBe('4')
  await fireEvent.click(button('Apply'))
  expect(whatif.changes).toEqual(['keep 0.0=window:3+global:1', 'keep 0.all=window:4'])
  await fireEvent.click(button('Take back'))
  expect(whatif.changes).toEqual(['keep 0.0=window:3+global:1'])
})

test('a size that is none becomes one', async () => {
  const { whatif } = shown()
  for (const [given, size] of [['0', 1], ['-4', 1], ['', 1], ['2.6', 3]] as const) {
    await fireEvent.change(document.querySelector('#keep-size')!, { target: { value: given } })
    await fireEvent.click(button('Apply'))
    expect(whatif.changes).toEqual([`keep 0.0=window:${size}`])
    await fireEvent.click(button('Take back'))
  }
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
