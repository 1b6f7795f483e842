import { fireEvent, render, screen, within } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test, vi } from 'vitest'
import { explorer, HOSTILE } from '../made'
import { LINKED } from '../state/hash'
import { SCREENS } from '../state/screens'
import TopBar from './TopBar.svelte'

function shown() {
  const looks = explorer()
  render(TopBar, { explorer: looks, screens: [...SCREENS], linked: true })
  return looks
}

const said = () => document.querySelector('[role=status].note')!.textContent
const link = () => screen.getAllByRole('button', { name: 'Copy the link' })[0]
const clipboard = (writeText: (text: string) => Promise<void>) => vi.stubGlobal('navigator', { language: 'en', clipboard: { writeText } })

test('one of the screens is open, and another is opened', async () => {
  const looks = shown(), bar = within(screen.getByRole('navigation', { name: 'Screens' }))
  expect(bar.getAllByRole('button').map((button) => [button.textContent, button.getAttribute('aria-current')]))
    .toEqual(['Walk', 'Heads', 'Map', 'Film', 'What if', 'Compare', 'Flow', 'Sparse', 'Pronouns', 'Atlas', 'Labs'].map((name) => [name, name === 'Walk' ? 'page' : null]))
  await fireEvent.click(bar.getByRole('button', { name: 'Film' }))
  expect([looks.screen, bar.getByRole('button', { current: 'page' }).textContent]).toEqual(['film', 'Film'])
})

test('every word turns to Chinese', async () => {
  const looks = shown()
  const zh = screen.getByRole('button', { name: '中文' })
  await fireEvent.click(zh)
  expect([looks.language, zh.getAttribute('aria-pressed'), screen.getByRole('navigation').textContent!.replaceAll(/\s/g, '')])
    .toEqual(['zh', 'true', '流程注意力头地图影片假如比较流稀疏指代图谱实验'])
})

test('light turns to dark and back', async () => {
  const looks = shown(), button = screen.getAllByRole('button', { name: 'Light or dark' })[0], before = looks.theme
  await fireEvent.click(button)
  expect(looks.theme).not.toBe(before)
  await fireEvent.click(button)
  expect(looks.theme).toBe(before)
})

test('whose numbers they are: the model, its shape, and what else there is', async () => {
  const looks = shown(), change = vi.spyOn(looks, 'change').mockResolvedValue()
  looks.models = ['tiny', HOSTILE]
  await tick()
  expect(screen.getByText('1 layer · 2 heads · 1 K/V group')).toBeTruthy()
  const models = screen.getByLabelText<HTMLSelectElement>('Model')
  expect([...models.options].map((option) => option.text)).toEqual(['tiny', HOSTILE])
  await fireEvent.change(models, { target: { value: HOSTILE } })
  expect(change.mock.calls).toEqual([[HOSTILE]])
})

test('the link is copied, shown where no page may copy, and refused where the text is too long for one', async () => {
  const looks = shown(), write = vi.fn().mockResolvedValueOnce(undefined).mockRejectedValue(new Error('denied'))
  clipboard(write)
  await fireEvent.click(link())
  await vi.waitFor(() => expect(said()).toBe('The link is copied.'))
  expect(write.mock.calls).toEqual([[location.href]])
  await fireEvent.click(link())
  await vi.waitFor(() => expect(screen.getByLabelText<HTMLInputElement>('The link:').value).toBe(location.href))
  looks.text = 'a'.repeat(LINKED + 1)
  await fireEvent.click(link())
  expect(said()).toBe('This text is too long for a link; save the page instead.')
})
