import { fireEvent, render, screen } from '@testing-library/svelte'
import { expect, test, vi } from 'vitest'
import { HOSTILE } from '../made'
import Chooser from './Chooser.svelte'

test('one out of a list, by name', async () => {
  const choose = vi.fn()
  render(Chooser, { label: 'Model', options: ['chat', 'other'], names: { other: HOSTILE }, value: 'chat', note: '6 layers', choose })
  const list = screen.getByLabelText<HTMLSelectElement>('Model')
  expect([list.value, ...[...list.options].map((option) => option.text)]).toEqual(['chat', 'chat', HOSTILE])
  await fireEvent.change(list, { target: { value: 'other' } })
  expect(choose.mock.calls).toEqual([['other']])
  expect(screen.getByText('6 layers')).toBeTruthy()
})

test('where there is one there is nothing to choose', () => {
  render(Chooser, { label: 'Model', options: [HOSTILE], value: HOSTILE, choose: vi.fn() })
  expect([screen.queryByLabelText('Model'), document.querySelector('img'), document.body.textContent!.trim()]).toEqual([null, null, HOSTILE])
})
