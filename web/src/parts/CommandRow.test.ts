import { fireEvent, render, screen } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test, vi } from 'vitest'
import { explorer, source } from '../made'
import { Explorer } from '../state/explorer.svelte'
import CommandRow from './CommandRow.svelte'

function shown() {
  const looks = explorer(), run = vi.spyOn(looks, 'run').mockResolvedValue()
  render(CommandRow, { explorer: looks })
  return { looks, run, box: screen.getByLabelText<HTMLTextAreaElement>('Text') }
}

test('Enter shows the text; with Shift, or while a word is being spelled, it does not', async () => {
  const { run, box } = shown()
  expect(box.value).toBe('one two')
  await fireEvent.input(box, { target: { value: '小沈阳' } })
  expect(await fireEvent.keyDown(box, { key: 'Enter', shiftKey: true })).toBe(true)
  expect(await fireEvent.keyDown(box, { key: 'Enter', isComposing: true })).toBe(true)
  expect(run).not.toHaveBeenCalled()
  expect(await fireEvent.keyDown(box, { key: 'Enter' })).toBe(false)
  expect(run.mock.calls).toEqual([['小沈阳']])
})

test('an example is a text, and says whether it is the one', async () => {
  const { looks, run } = shown()
  const example = screen.getByRole('button', { name: 'I love you' })
  expect(example.getAttribute('aria-pressed')).toBe('false')
  await fireEvent.click(example)
  expect(run.mock.calls).toEqual([['I love you']])
  looks.text = 'I love you'
  await tick()
  expect(example.getAttribute('aria-pressed')).toBe('true')
})

test('what takes its time can be waited for no longer', async () => {
  const { looks } = shown(), cancel = vi.spyOn(looks, 'cancel')
  looks.busy = true
  await tick()
  expect(screen.queryByRole('button', { name: 'Show its attention' })).toBeNull()
  await fireEvent.click(screen.getByRole('button', { name: 'Stop waiting' }))
  expect(cancel).toHaveBeenCalledOnce()
})

test('a file is read as text, or refused in a line', async () => {
  const { run } = shown(), picker = document.querySelector<HTMLInputElement>('input[type=file]')!
  const pick = async (file: File) => {
    Object.defineProperty(picker, 'files', { value: [file], configurable: true })
    await fireEvent.change(picker)
    await vi.waitFor(() => expect(run.mock.calls.length + screen.queryAllByRole('alert').length).toBeGreaterThan(0))
  }
  await pick(new File([new Uint8Array([0x89, 0x50, 0xff])], 'photo.png'))
  expect(screen.getByRole('alert').textContent).toBe('photo.png is no text in UTF-8; convert it first.')
  await pick(new File(['春天\n'], 'poem.txt'))
  await vi.waitFor(() => expect(run.mock.calls).toEqual([['春天']]))
  expect(screen.queryByRole('alert')).toBeNull()
})

test('the certificate says the measured bound; an exported page has it alone', () => {
  const looks = new Explorer('')
  looks.source = source()
  const { container } = render(CommandRow, { explorer: looks })
  expect(container.textContent!.trim()).toMatch(/^exact: \|row sum − 1\| ≤ 1\.[23]e−7$/)
  expect(container.querySelector('.certificate')!.getAttribute('title')).toContain('3.0e−8')
  expect(container.querySelector('form, button')).toBeNull()
})
