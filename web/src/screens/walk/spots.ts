// What one number of a strip follows from, in a line or two.
import { plain } from '../../parts/numbers'
import { group } from '../../wire/trace'
import { at, middle, terms, type Spot } from './strips'
import type { Walk } from './walk.svelte'

const TERMS = 4   // products of a weight and a value that are written out

export const valueAt = (walk: Walk, spot: Spot): number => at(walk.strips[spot.name]!, spot.row)[spot.index]

export function lines(walk: Walk, spot: Spot): string[] {
  const words = walk.words.lines, { tensors, course } = walk.stream ?? { tensors: {}, course: { why: null } }
  const of = (name: string): number | null => {
    const tensor = (tensors as Record<string, { shape: number[]; data: ArrayLike<number> }>)[name]
    return tensor ? tensor.data[spot.row * tensor.shape[1] + spot.index] : null
  }
  const said = (x: number | null) => (x === null ? null : plain(x))
  const value = plain(valueAt(walk, spot))
  const head = walk.explorer.opened!
  switch (spot.name) {
    case 'embed': {
      const sum = words.sum(said(of('embedded')) ?? value, said(of('positions')), said(of('types')))
      return [...(of('positions') === null ? [words.rotates] : [sum]), ...(course.embedding_norm ? [words.normed] : [])]
    }
    case 'norm':
      return course.order === 'post' ? [words.plain] : walk.cross ? [] : [words.norm(said(of('input')) ?? '')]
    case 'q': case 'k': {
      const before = spot.name === 'q' ? head.unrotated_q : head.unrotated_k
      const token = (spot.name === 'q' ? walk.queries : walk.keys)[spot.row]
      return before ? [words.rotated(plain(before[token * head.d + spot.index]))] : []
    }
    case 'joined': {
      const width = walk.strips.joined!.width / walk.call.heads
      return [words.head(Math.floor(spot.index / width), spot.index % width)]
    }
    case 'mixed': return products(walk, spot)
    case 'projected': case 'middle': {
      const added = of(walk.cross ? 'crossed' : 'attended'), after = walk.strips.middle && at(walk.strips.middle, spot.row)[spot.index]
      const before = walk.cross && course.order !== 'post' ? sum(of('input'), of('attended')) : of(walk.cross ? 'cross_input' : 'input')
      return before === null || added === null || after === undefined ? [] : [adds(walk, before, added, after)]
    }
    case 'fed': case 'output': {
      const before = walk.stream && middle(walk.stream), after = of('output'), added = of('fed')
      if (!before || after === null || added === null) return []
      return [adds(walk, before[spot.row * walk.strips.output!.width + spot.index], added, after)]
    }
    default: return walk.call.kv_heads < walk.call.heads ? [walk.explorer.words.group(group(walk.call, head.head))] : []
  }
}

const sum = (a: number | null, b: number | null): number | null => (a === null || b === null ? null : Math.fround(a + b))

function adds(walk: Walk, before: number, added: number, after: number): string {
  const normed = walk.stream?.course.order === 'post'
  return walk.words.lines[normed ? 'addsNormed' : 'adds'](plain(before), plain(added), plain(after))
}

function products(walk: Walk, spot: Spot): string[] {
  const head = walk.explorer.opened!
  if (!head.v) return []
  const all = terms(head, walk.queries[spot.row], spot.index), rest = all.slice(TERMS)
  return [
    `${walk.words.lines.weight}:`,
    ...all.slice(0, TERMS).map(({ key, weight, value }) => `${plain(weight)} × ${plain(value)} = ${plain(weight * value)} · ${walk.keyToken(key)}`),
    ...(rest.length ? [`${walk.words.lines.others(rest.length)}: ${plain(rest.reduce((total, { weight, value }) => total + weight * value, 0))}`] : []),
  ]
}
