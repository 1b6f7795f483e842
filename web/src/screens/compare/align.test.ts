import { expect, test } from 'vitest'
import { aligned, common, largest, pooled } from './align'

const list = (...pairs: [string, number][]) => pairs.map(([token, p]) => ({ token, p, id: token.length }))

test('two texts begin at the last token of the longest word that both have', () => {
  expect(common(['⟨s⟩', '我', '吃', '了', '苹', '果'], ['⟨s⟩', '苹', '果', '发', '布', '了'], false)).toEqual([5, 2])
  expect(common(['⟨s⟩', 'the', 'river', 'bank'], ['⟨s⟩', 'in', 'the', 'bank', '.'], false)).toEqual([3, 3])
})

test('marks and commas are no words, and texts without a word in common begin at their ends', () => {
  expect(common(['[CLS]', 'a', ',', '[SEP]'], ['[CLS]', 'b', ',', 'c', '[SEP]'], false)).toEqual([3, 4])
  expect(common(['one'], ['two', 'three'], false)).toEqual([0, 1])
})

test('one text begins at a word that it has twice, and never beside itself', () => {
  expect(common(['the', 'cat', 'sees', 'the', 'dog'], ['the', 'cat', 'sees', 'the', 'dog'], true)).toEqual([0, 3])
  expect(common(['I', 'love', 'you'], ['I', 'love', 'you'], true)).toEqual([1, 2])
  expect(common(['I'], ['I'], true)).toEqual([0, 0])
})

test('what both lists have is one row, and a row may lack a number', () => {
  const a = list(['x', 0.5], ['yy', 0.3], ['zzz', 0.1]), b = list(['yy', 0.6], ['wwww', 0.2])
  expect(aligned(a, b, 2, true)).toEqual([
    { token: 'yy', a: 0.3, b: 0.6 }, { token: 'x', a: 0.5, b: null }, { token: 'wwww', a: null, b: 0.2 },
  ])
  // a token that is beyond the first of one list still brings its number
  expect(aligned(a, list(['zzz', 0.9]), 1, true)).toEqual([{ token: 'zzz', a: 0.1, b: 0.9 }, { token: 'x', a: 0.5, b: null }])
  // between two models an id means nothing
  expect(aligned(list(['ab', 0.5]), list(['cd', 0.4]), 1, false)).toHaveLength(2)
  expect(aligned(list(['ab', 0.5]), list(['cd', 0.4]), 1, true)).toHaveLength(1)
})

test('the largest weights of a row, and what is hidden is none', () => {
  expect(largest([0.1, 0.6, 0.3, NaN, 0], 2)).toEqual([1, 2])
  expect(largest([0.1, 0.6, 0.3, NaN, 0], 9)).toEqual([1, 2, 0])
})

test('a large map is pooled by its largest weights', () => {
  const found = pooled([1, NaN, NaN, 0.25, 0.75, NaN, 0.2, 0.3, 0.5], 3, 3, 2)
  expect([found.tall, found.wide, ...found.values]).toEqual([2, 2, 1, NaN, 0.3, 0.5])
  expect([...pooled([1, NaN, 0.25, 0.75], 2, 2, 1).values]).toEqual([1, NaN, 0.25, 0.75])
})
