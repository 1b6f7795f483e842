import { expect, test } from 'vitest'
import { view } from './save'

test('the address of a page in a file has no text and no model', () => {
  expect(view('#lang=zh&screen=map&text=a+b&model=chat&to=zh&map.at=1%2C2', null)).toBe('lang=zh&screen=map&map.at=1%2C2')
})

test('a screen says what of its own a file has, and which screen to open', () => {
  expect(view('#screen=film&film.at=9&film.branch=1+2', { view: { 'film.at': '3' } })).toBe('screen=film&film.at=3')
  expect(view('#screen=whatif&whatif.changes=mute+0.1&layer=2', { view: { screen: 'heads' } })).toBe('screen=heads&layer=2')
})

test('one that is too long is left out', () => expect(view(`#map.x=${'a'.repeat(3000)}`, null)).toBe(''))
