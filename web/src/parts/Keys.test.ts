import { fireEvent, render, screen } from '@testing-library/svelte'
import { expect, test, vi } from 'vitest'
import { SCREENS } from '../state/screens'
import { WORDS } from '../state/words'
import Keys from './Keys.svelte'

test.each(['en', 'zh'] as const)('every screen has its part in the list: %s', (language) => {
  const words = WORDS[language]
  render(Keys, { words, screens: [...SCREENS], close: vi.fn() })
  const titles = screen.getAllByRole('heading', { level: 3 }).map((title) => title.textContent)
  expect(titles).toEqual([words.everywhere, ...SCREENS.map((name) => words.screens[name])])
  const [keys, meanings] = ['dt', 'dd'].map((tag) => [...document.querySelectorAll(tag)].map((e) => e.textContent))
  expect(keys.length).toBe(meanings.length)
  expect([...keys, ...meanings].every(Boolean)).toBe(true)
})

test('it is over the page: closed by its button, and no key goes through it', async () => {
  const close = vi.fn(), heard = vi.fn()
  addEventListener('keydown', heard)
  render(Keys, { words: WORDS.en, screens: ['walk'], close })
  const dialog = screen.getByRole<HTMLDialogElement>('dialog', { name: 'Keys' })
  expect(dialog.open).toBe(true)
  await fireEvent.keyDown(dialog, { key: '2' })
  expect(heard).not.toHaveBeenCalled()
  await fireEvent.click(screen.getByRole('button', { name: 'Close' }))
  expect([dialog.open, close.mock.calls.length]).toEqual([false, 1])
  removeEventListener('keydown', heard)
})
