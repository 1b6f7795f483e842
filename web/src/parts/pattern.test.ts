import { expect, test } from 'vitest'
import { read, write } from './pattern'

test('patterns are read as they are written', () => {
  for (const text of ['window:8', 'block:64', 'strided:4+global:1', 'top:16']) expect(write(read(text)!)).toBe(text)
  expect(read('strided:4+global:2')).toEqual({ kind: 'strided', size: 4, global: 2 })
})

test('what is no pattern is none; the largest scores have no global tokens', () => {
  for (const text of ['', 'window', 'window:0', 'wide:3', 'top:3+global:1', 'window:1234567890', 'window:3 ']) expect(read(text)).toBeNull()
  expect(write({ kind: 'top', size: 3, global: 4 })).toBe('top:3')
  expect(write({ kind: 'block', size: 3, global: 0 })).toBe('block:3')
})
