// The text behind the labels of tokens: what is joined and what stands apart, its words, its lines, and passages of it.
// The labels are those of klieg/labels.py.
import { unitAt, type Size } from './view'

export const UNITS = ['token', 'word', 'line'] as const
export type Unit = (typeof UNITS)[number]

// Scripts that put no space between words, as in klieg/labels.py.
const UNSPACED = /[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\ua4cf\uf900-\ufaff\uff66-\uff9f]/u
const PART = / (\d+)\/(\d+)$/   // the first of three tokens that share one character: "沈 1/3"

// What a label stands for in the text, a space before it where there was one.
export function piece(label: string, before: string): string {
  let text = label.replace(/[\u2068\u2069]/g, '')
  const part = PART.exec(text)
  if (part) {
    if (part[1] !== '1') return ''
    text = text.slice(0, part.index)
  }
  text = text.replaceAll('↩', '\n').replaceAll('⇥', '\t')
  if (text.startsWith('·') && text.length > 1) return text.slice(1)
  if (text.startsWith('␣')) return ` ${text.slice(1)}`
  if (/^[\p{L}\p{N}⟨]/u.test(text) && !UNSPACED.test(text[0]) && !/(^|\s|⟩)$/.test(before)) return ` ${text}`
  return text
}

export interface Piece { token: number; text: string }

// A stretch of the text, token by token.
export function passage(tokens: string[], from: number, to: number): Piece[] {
  const found: Piece[] = []
  let before = from > 0 ? tokens[from - 1] : ''
  if (before.endsWith('↩')) before = '\n'
  for (let token = from; token < to; token++) {
    const text = piece(tokens[token], before)
    found.push({ token, text })
    if (text) before = text
  }
  return found
}

// The tokens at which the words, or the lines, of a text start; null for tokens themselves.
export function starts(tokens: string[], unit: Unit): Int32Array | null {
  if (unit === 'token') return null
  const begins = unit === 'word'
    ? (n: number) => !(tokens[n].length > 1 && tokens[n].startsWith('·')) && !/ ([2-9]|\d\d+)\/\d+$/.test(tokens[n])
    : (n: number) => tokens[n - 1].includes('↩')
  const found = [0]
  for (let n = 1; n < tokens.length; n++) if (begins(n)) found.push(n)
  return Int32Array.from(found)
}

// The word that a token is part of, in at most 24 characters.
export function word(tokens: string[], words: Int32Array, at: number): string {
  const end = words[at + 1] ?? tokens.length
  const whole = passage(tokens, words[at], Math.min(end, words[at] + 24)).map((p) => p.text).join('').trim()
  return whole.length > 24 ? `${whole.slice(0, 23)}…` : whole || tokens[words[at]]
}

// What the queries and keys of a map are called, and how they are counted: in tokens, words or lines.
export class Names {
  readonly queryStarts: Int32Array | null
  readonly keyStarts: Int32Array | null
  readonly #found = new Map<number, string>()

  // `apart`: whether queries and keys are of two texts.
  constructor(readonly queries: string[], readonly keys: string[], private readonly unit: Unit, private readonly size: Size, private readonly apart: boolean) {
    this.queryStarts = starts(queries, unit)
    this.keyStarts = keys === queries ? this.queryStarts : starts(keys, unit)
  }

  // The place of a query among the tokens: of a text that is continued, queries stand at its end.
  slot = (query: number): number => (this.apart ? query : this.size.keys - this.size.queries + query)

  name(role: 'query' | 'key', place: number): string {
    const at = role === 'key' ? place * 2 : place * 2 + 1
    let found = this.#found.get(at)
    if (found === undefined) {
      const [tokens, units, token] = role === 'key' ? [this.keys, this.keyStarts, place] : [this.queries, this.queryStarts, this.slot(place)]
      found = units && this.unit === 'word' ? word(tokens, units, unitAt(units, token)) : tokens[token] ?? ''
      if (this.#found.size > 20_000) this.#found.clear()
      this.#found.set(at, found)
    }
    return found
  }

  // The number of a token, or of its word or line.
  count(role: 'query' | 'key', place: number): number {
    const [units, token] = role === 'key' ? [this.keyStarts, place] : [this.queryStarts, this.slot(place)]
    return units ? unitAt(units, token) : token
  }
}

// A text that can be searched: where a passage begins, as tokens.
export class Searched {
  readonly #text: string
  readonly #ends: Int32Array   // where each token's share of the text ends

  constructor(tokens: string[]) {
    let length = 0
    this.#ends = new Int32Array(tokens.length)
    this.#text = passage(tokens, 0, tokens.length).map(({ text }, n) => {
      const plain = text.toLowerCase().replace(/\s/g, ' ')
      this.#ends[n] = length += plain.length
      return plain
    }).join('')
  }

  // The tokens at which a passage begins, at most `most` of them.
  find(wanted: string, most = 1000): number[] {
    const found: number[] = [], sought = wanted.trim().replace(/\s+/g, ' ').toLowerCase()
    if (!sought) return found
    for (let at = this.#text.indexOf(sought); at >= 0 && found.length < most; at = this.#text.indexOf(sought, at + 1)) {
      const token = this.#token(at)
      if (found[found.length - 1] !== token) found.push(token)
    }
    return found
  }

  #token(at: number): number {
    let low = 0, high = this.#ends.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#ends[middle] > at) high = middle
      else low = middle + 1
    }
    return low
  }
}

// The token that a number names, such as 130,640; null for anything else.
export function numbered(wanted: string, count: number): number | null {
  const plain = wanted.trim().replace(/[,\u202f\s]/g, '')
  return /^\d{1,12}$/.test(plain) && Number(plain) < count ? Number(plain) : null
}
