// The one sentence of a step, out of the numbers that are shown.
import { fixed, percent, plain, wholePercent } from '../../parts/numbers'
import { dot, number, reason } from '../../wire/attention'
import { vector } from '../../wire/trace'
import type { Step } from './steps'
import { long, type Name } from './strips'
import type { Walk } from './walk.svelte'

export function say(walk: Walk): string {
  return SENTENCES[walk.name](walk) ?? walk.words.missed(walk.words.steps[walk.name])
}

type Sentence = (walk: Walk) => string | null   // null: the trace does not have it

const SENTENCES: Record<Step, Sentence> = {
  embedding: ({ words, strips, call, stream }) => strips.embed ? words.say.embedding(call.queries, strips.embed.width, !!stream?.tensors.positions) : null,
  norm: (walk) => {
    const { words, strips, call, stream } = walk
    const after = length(walk, 'norm')
    if (!strips.norm || !stream || after === null) return null
    const reads = stream.tensors.input, token = walk.token(walk.shown.query)
    if (stream.course.order === 'post' || walk.cross || !reads) return words.say.plain(call.layer, token, after)
    const before = long(vector(reads.data as Float32Array, walk.row, reads.shape[1]))
    return words.say.norm(call.layer, token, fixed(before, 2), after)
  },
  qkv: (walk) => walk.words.say.qkv(walk.token(walk.shown.query), walk.explorer.opened!.d, walk.call.keys),
  scores: (walk) => {
    const { query, key } = walk.shown, head = walk.explorer.opened!
    const scores = walk.keys.map((j) => dot(head, query, j))
    const best = walk.keys[scores.indexOf(Math.max(...scores))]
    return walk.words.say.scores(walk.token(query), walk.keyToken(key), fixed(dot(head, query, key), 2), best === key ? null : walk.keyToken(best))
  },
  scale: (walk) => {
    const { query, key } = walk.shown, head = walk.explorer.opened!
    return walk.words.say.scale(plain(walk.call.scale), fixed(dot(head, query, key), 2), fixed(number(head, query, key, 'scaled'), 2))
  },
  mask: (walk) => {
    const found = walk.queries.flatMap((i) => walk.keys.map((j) => reason(walk.explorer.opened!, i, j)))
    const reasons = [...new Set(found.filter((why) => why !== null))].map((why) => walk.explorer.words.reasons[why] ?? why)
    const hidden = found.filter((why) => why !== null).length
    return hidden ? walk.words.say.mask(hidden, found.length, reasons.join(', ')) : walk.words.say.unmasked(found.length)
  },
  softmax: (walk) => walk.words.say.softmax(...looks(walk), wholePercent(share(walk))),
  mixed: (walk) => walk.strips.mixed ? walk.words.say.mixed(...looks(walk), percent(share(walk)), percent(Math.max(0, 1 - share(walk)))) : null,
  join: ({ words, call, strips, explorer }) => {
    if (!strips.joined) return null
    const width = strips.joined.width / call.heads
    return words.say.join(call.heads, width, explorer.head, explorer.head * width, (explorer.head + 1) * width - 1)
  },
  projected: (walk) => walk.strips.projected ? walk.words.say.projected(walk.token(walk.shown.query), length(walk, 'projected') ?? '') : null,
  residual: (walk) => {
    const { stream, strips, words } = walk
    const input = stream?.tensors.input
    if (!input || !strips.middle) return null
    const before = long(vector(input.data as Float32Array, walk.row, input.shape[1]))
    return words.say.residual(walk.token(walk.shown.query), fixed(before, 2), length(walk, 'projected') ?? '', length(walk, 'middle') ?? '')
  },
  feed: (walk) => walk.strips.fed ? walk.words.say.feed(walk.token(walk.shown.query), length(walk, 'fed') ?? '') : null,
  next: ({ words, call, explorer, stream }) => {
    const left = explorer.calls.length - 1 - explorer.layer
    if (left > 0) return left === 1 ? words.say.nextIsLast(call.layer, call.layer + 1) : words.say.next(call.layer, call.layer + 1, left - 1)
    return call.kind === 'encoder' ? words.say.lastOfEncoder(call.layer) : words.say.last(call.layer, stream?.course.final_norm ?? false)
  },
  probabilities: ({ words, likely, explorer, shown, token, call }) => {
    if (!likely.length || call.kind === 'encoder') return words.say.none
    return words.say.probabilities(token(shown.query), likely[0].token, percent(likely[0].p), explorer.trace!.vocabulary)
  },
}

const share = ({ explorer, shown }: Walk): number => explorer.weight(shown.query, shown.key)
const looks = (walk: Walk): [string, string] => [walk.token(walk.shown.query), walk.keyToken(walk.shown.key)]

// The length of the chosen query's row of a strip.
function length(walk: Walk, name: Name): string | null {
  const strip = walk.strips[name]
  return strip && walk.row >= 0 ? fixed(long(vector(strip.data, walk.row, strip.width)), 2) : null
}
