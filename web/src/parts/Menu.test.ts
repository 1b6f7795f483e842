import { fireEvent, render, screen } from '@testing-library/svelte'
import { createRawSnippet } from 'svelte'
import { expect, test, vi } from 'vitest'
import { HOSTILE } from '../made'
import Menu from './Menu.svelte'

const children = createRawSnippet(() => ({ render: () => '<b>↓</b>' }))

async function opened(act = vi.fn()) {
  render(Menu, { label: 'Save', items: [{ name: 'Picture', hint: 'SVG', act }, { name: HOSTILE, act: () => undefined }], children })
  const button = screen.getByRole('button', { name: 'Save' })
  await fireEvent.click(button)
  return { button, act }
}

const isOpen = (button: HTMLElement) => button.getAttribute('aria-expanded') === 'true' && screen.queryAllByRole('listitem').length > 0

test('it opens, does one thing, closes and has the focus again', async () => {
  const { button, act } = await opened()
  expect(isOpen(button)).toBe(true)
  expect(screen.getAllByRole('listitem').map((item) => item.textContent)).toEqual(['PictureSVG', HOSTILE])
  expect(document.querySelector('img')).toBeNull()
  await fireEvent.click(screen.getByRole('button', { name: 'Picture SVG' }))
  expect(act).toHaveBeenCalledOnce()
  expect([isOpen(button), document.activeElement]).toEqual([false, button])
})

test('Escape closes it, and is nobody’s where it is closed', async () => {
  const { button } = await opened()
  expect(await fireEvent.keyDown(document.body, { key: 'Escape' })).toBe(false)   // taken
  expect([isOpen(button), document.activeElement]).toEqual([false, button])
  expect(await fireEvent.keyDown(document.body, { key: 'Escape' })).toBe(true)
})

test('a press elsewhere and a focus elsewhere close it', async () => {
  const { button } = await opened()
  await fireEvent.pointerDown(screen.getAllByRole('listitem')[0])
  expect(isOpen(button)).toBe(true)
  await fireEvent.pointerDown(document.body)
  expect(isOpen(button)).toBe(false)
  await fireEvent.click(button)
  await fireEvent.focusOut(button, { relatedTarget: document.body })
  expect(isOpen(button)).toBe(false)
})
