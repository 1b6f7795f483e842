import { fireEvent, render, screen } from '@testing-library/svelte'
import { expect, test, vi } from 'vitest'
import Segmented from './Segmented.svelte'

const given = { name: 'scale', legend: 'Scale', options: ['linear', 'log'] as const, labels: { linear: 'Linear', log: 'Log' }, value: 'linear' as const }

test('one of the choices is taken, and another is told', async () => {
  const choose = vi.fn()
  render(Segmented, { ...given, choose })
  expect(screen.getByRole('group', { name: 'Scale' })).toBeTruthy()
  const [linear, log] = screen.getAllByRole<HTMLInputElement>('radio')
  expect([linear.checked, log.checked]).toEqual([true, false])
  expect([linear.name, log.name]).toEqual(['scale', 'scale'])   // so that the arrows move between them
  await fireEvent.click(screen.getByLabelText('Log'))
  expect(choose.mock.calls).toEqual([['log']])
})

test('what cannot be chosen says why', async () => {
  const choose = vi.fn()
  render(Segmented, { ...given, choose, disabled: ['log'], why: 'Only weights have a logarithm' })
  await fireEvent.click(screen.getByLabelText('Log'))
  expect(choose).not.toHaveBeenCalled()
  expect(screen.getByTitle('Only weights have a logarithm').textContent).toContain('Log')
})
