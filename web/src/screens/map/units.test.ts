import { expect, test } from 'vitest'
import { numbered, passage, Searched, starts, word } from './units'

const tokens = ['⟨s⟩', 'I', 'love', 'un', '·believ', '·able', 'things', ',', '␣(', 'yes', ')', '↩', '沈', '阳', '江 1/2', '江 2/2', '↩', 'Two', '·2']
const text = (from: number, to: number) => passage(tokens, from, to).map((p) => p.text).join('')

test('labels become the text that they stand for', () => {
  expect(text(1, 11)).toBe('I love unbelievable things, ( yes)')
  expect(text(2, 6)).toBe(' love unbelievable')
  expect(text(11, 19)).toBe('\n沈阳江\nTwo2')
})

test('words and lines start where they do', () => {
  expect([...starts(tokens, 'word')!].map((at) => tokens[at])).toEqual(['⟨s⟩', 'I', 'love', 'un', 'things', ',', '␣(', 'yes', ')', '↩', '沈', '阳', '江 1/2', '↩', 'Two'])
  expect([...starts(tokens, 'line')!]).toEqual([0, 12, 17])
  expect(starts(tokens, 'token')).toBe(null)
  const words = starts(tokens, 'word')!
  expect(word(tokens, words, 3)).toBe('unbelievable')
  expect(word(tokens, words, 14)).toBe('Two2')
})

test('a passage is found across tokens and lines, whatever its case', () => {
  const searched = new Searched(tokens)
  expect(searched.find('LOVE unbel')).toEqual([2])
  expect(searched.find('阳江 two')).toEqual([13])
  expect(searched.find('i')).toEqual([1, 4, 6])
  expect(searched.find('i', 2)).toEqual([1, 4])
  expect(searched.find('nowhere')).toEqual([])
  expect(searched.find('  ')).toEqual([])
})

test('a number is a token', () => {
  expect(numbered('130,640', 131072)).toBe(130640)
  expect(numbered(' 7 ', 8)).toBe(7)
  expect(numbered('8', 8)).toBe(null)
  expect(numbered('7th', 8)).toBe(null)
})
