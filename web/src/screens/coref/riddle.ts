// A riddle in the address: places in a text as "28-34 street", so that those of another text are told apart.
export type Span = [from: number, to: number]   // characters, as Python counts them

export const phrase = (text: string, [from, to]: Span): string => [...text].slice(from, to).join('')

// The places that stand in a text as they are written; none where one does not.
export function read(given: string, text: string): Span[] {
  const found: Span[] = []
  for (const part of given.split(';').filter(Boolean)) {
    const [, from, to, said] = /^(\d{1,9})-(\d{1,9}) ([^]*)$/.exec(part) ?? []
    const span: Span = [Number(from), Number(to)]
    if (!said || phrase(text, span).replaceAll(';', ',') !== said) return []
    found.push(span)
  }
  return found
}

export const write = (spans: Span[], text: string): string => spans.map((span) => `${span[0]}-${span[1]} ${phrase(text, span).replaceAll(';', ',')}`).join(';')

// Where a phrase stands in a text for the first time after a place.
export function find(text: string, wanted: string, after = 0): Span {
  const letters = [...text], size = [...wanted].length
  for (let n = after; n + size <= letters.length; n++) if (letters.slice(n, n + size).join('') === wanted) return [n, n + size]
  throw new Error(`${wanted} is not in ${text}`)
}

// Ready-made riddles: the pronoun, and what it may stand for, the right one first. Of twins one word tells them apart.
export interface Ready { text: string; pronoun: string; after: string; candidates: string[] }
export const READY: Ready[] = [
  { text: 'The animal didn’t cross the street because it was too tired', pronoun: 'it', after: 'because', candidates: ['animal', 'street'] },
  { text: 'The animal didn’t cross the street because it was too wide', pronoun: 'it', after: 'because', candidates: ['street', 'animal'] },
  { text: 'The ball broke the window because it was made of steel', pronoun: 'it', after: 'because', candidates: ['ball', 'window'] },
  { text: 'Tom gave Lily a cake because she was hungry', pronoun: 'she', after: 'because', candidates: ['Lily', 'Tom'] },
  { text: '小猫没有追上老鼠，因为它跑得太慢了', pronoun: '它', after: '因为', candidates: ['小猫', '老鼠'] },
]

// What tells ready ones apart: the end of the sentence.
export const tail = ({ text, after }: Ready): string => text.slice(text.indexOf(after))

export function places({ text, pronoun, after, candidates }: Ready): { pronoun: Span; candidates: Span[] } {
  return { pronoun: find(text, pronoun, find(text, after)[1]), candidates: candidates.map((candidate) => find(text, candidate)) }
}
