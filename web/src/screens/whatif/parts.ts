// The text in words and what stands between them, so that a word can be pointed at.
export interface Part { text: string; word: boolean }

export function parts(text: string, language: string): Part[] {
  if (!('Segmenter' in Intl)) return text.split(/([\s\p{P}]+)/u).filter(Boolean).map((part) => ({ text: part, word: !/^[\s\p{P}]/u.test(part) }))
  const cut = new Intl.Segmenter(language, { granularity: 'word' })
  return [...cut.segment(text)].map(({ segment, isWordLike }) => ({ text: segment, word: isWordLike ?? false }))
}
