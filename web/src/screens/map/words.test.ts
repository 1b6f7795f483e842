import { expect, test } from 'vitest'
import { WORDS } from './words'

test('how far away a key is, in both languages: one token back is the one before', () => {
  const said = (language: 'en' | 'zh', far: string) => WORDS[language].sentence('c', 'b', '30 %', far)
  expect([said('en', WORDS.en.back(1)), said('en', WORDS.en.ahead(2))]).toEqual(['“c” looks 1 token back at “b”: 30 %.', '“c” looks 2 tokens ahead at “b”: 30 %.'])
  expect([said('zh', WORDS.zh.back(1)), said('zh', WORDS.zh.ahead(2))]).toEqual(['“c”看向往前 1 个词元的“b”：30 %。', '“c”看向往后 2 个词元的“b”：30 %。'])
  expect(said('zh', '')).toBe('“c”看向“b”：30 %。')
})
