// What is saved of a comparison: both sides and their chosen tokens; a page in a file has the first text alone.
import type { Shown } from '../../parts/save'
import type { Comparing } from './compare.svelte'

export function shown({ sides, tokens: [one, two] }: Pick<Comparing, 'sides' | 'tokens'>): Shown | null {
  if (!sides) return null
  const [a, b] = sides.map(({ source }) => source.trace.id)
  const view: Record<string, string> = a === b ? { 'compare.a': `${one}`, 'compare.b': `${two}` } : {}
  return { path: 'api/comparisons', asked: { a, b, token_a: `${one}`, token_b: `${two}` }, call: sides[0].call, view }
}
