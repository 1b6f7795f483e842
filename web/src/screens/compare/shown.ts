// What is saved of a comparison: both sides and their chosen tokens; a page in a file has the first text alone.
import { told, type Shown } from '../../parts/save'
import type { Comparing } from './compare.svelte'

const LIKELY = 8   // next tokens of each

type Known = Pick<Comparing, 'sides' | 'tokens' | 'heads' | 'weights' | 'comparison' | 'why' | 'next'>

export function shown(comparing: Known): Shown | null {
  const { sides, tokens: [one, two] } = comparing
  if (!sides) return null
  const [a, b] = sides.map(({ source }) => source.trace.id)
  const view: Record<string, string> = a === b ? { 'compare.a': `${one}`, 'compare.b': `${two}` } : {}
  return { path: 'api/comparisons', asked: { a, b, token_a: `${one}`, token_b: `${two}` }, call: sides[0].call, view, numbers: () => Promise.resolve(numbers(comparing)) }
}

// The numbers of klieg/views/comparison.py, under the same names.
function numbers(comparing: Known): object {
  const { comparison, why } = comparing
  const steps = comparison?.found.steps.map(({ name, layer, cosine, mean }) => ({ name, layer, cosine, mean })) ?? null
  return { a: side(comparing, 0), b: side(comparing, 1), steps, why: why || null }
}

function side({ sides, tokens, heads, weights, next }: Known, n: 0 | 1): object {
  const { source: { trace }, call } = sides![n], head = heads[n], all = weights[n], likely = next[n]
  const row = (i: number) => Array.from(all!.subarray(i * call.keys, (i + 1) * call.keys), (weight) => weight || 0)   // what is hidden is no number
  const rows = head && all && Array.from({ length: call.queries }, (_, i) => row(i))
  return {
    model: trace.model.name, ...told(trace), token: tokens[n],
    open: { layer: call.layer, head: head?.head ?? null, kind: call.kind, ...(rows && { weights: rows }) },
    ...(likely && likely.after !== null && { next: { after: likely.after, candidates: likely.candidates.slice(0, LIKELY) } }),
  }
}
