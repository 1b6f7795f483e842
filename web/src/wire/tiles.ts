// What is asked of one head's map, however long the text: pooled tiles, exact cells, the strongest links, one weight
// written out. Far asks the server; Near computes the same from q, k and lse, in the page.
import { cell as arithmetic, number } from './attention'
import { json, message } from './source'
import type { Head } from './trace'

export type Span = [from: number, to: number]

// A region in buckets: mean and largest weight of each (R, C), and the largest weight of its rows over all keys (R).
export interface Tile { mean: Float32Array; max: Float32Array; top: Float32Array; rows: Int32Array; keys: Int32Array }
// A small region weight by weight (i, j), with its masked scores, and lse and the largest weight of each row (i).
export interface Cells { weight: Float32Array; score: Float32Array; lse: Float32Array; top: Float32Array }
export interface Link { query: number; key: number; weight: number }
// Strongest first, those on the first token and on the query itself aside; exact: none stronger is left out.
export interface Links { links: Link[]; exact: boolean }
export interface Term { key: number; score: number; exponential: number }

// One weight of a row that may be too long to list: the largest exponentials exp(score - rowMax), and the sum of the others.
export interface Written {
  q: number[]; k: number[]; products: number[]
  dot: number; scaled: number; bias: number | null; reason: string | null
  score: number; lse: number; rowMax: number; rowSum: number; sink: number
  weight: number; modelWeight: number
  terms: Term[]; others: number; rest: number
}

// The whole map in a few buckets, and how many buckets there are along both sides of the survey's map, where that is finer.
export interface Whole extends Tile { stored: [queries: number, keys: number] | null }

export interface HeadMap {
  whole(first: boolean, signal?: AbortSignal): Promise<Whole>   // without the first token unless `first`
  // A part of the survey's own map, counted in its buckets; only where it is finer than the whole is given.
  surveyed?(rows: Span, keys: Span, first: boolean, signal?: AbortSignal): Promise<Tile>
  tile(rows: Span, keys: Span, bucket: number, signal?: AbortSignal): Promise<Tile>
  cells(rows: Span, keys: Span, signal?: AbortSignal): Promise<Cells>
  links(rows: Span, keys: Span, count: number, signal?: AbortSignal): Promise<Links>
  cell(query: number, key: number, signal?: AbortSignal): Promise<Written>
}

export const WHOLE = 256   // buckets along the whole map, at most
export const TERMS = 32

export class Far implements HeadMap {
  // `path` names the trace, `place` the call and the head: "0/3".
  constructor(private readonly path: string, private readonly place: string) {}
  #ask = (what: string, asked: Record<string, string | number>, tail = '') =>
    `${this.path}${what}/${this.place}${tail}?${new URLSearchParams(Object.entries(asked).map(([name, value]) => [name, `${value}`]))}`
  #region = (rows: Span, keys: Span) => ({ rows: rows.join(':'), keys: keys.join(':') })

  async whole(first: boolean, signal?: AbortSignal): Promise<Whole> {
    const { body, tensors } = await message<{ stored: [number, number] | null }>(this.#ask('whole', { first: `${first}` }), { signal })
    return { ...tileOf(tensors), stored: body.stored }
  }

  async surveyed(rows: Span, keys: Span, first: boolean, signal?: AbortSignal): Promise<Tile> {
    return tileOf((await message(this.#ask('surveyed', { ...this.#region(rows, keys), first: `${first}` }), { signal })).tensors)
  }

  async tile(rows: Span, keys: Span, bucket: number, signal?: AbortSignal): Promise<Tile> {
    return tileOf((await message(this.#ask('tiles', { ...this.#region(rows, keys), bucket }), { signal })).tensors)
  }

  async cells(rows: Span, keys: Span, signal?: AbortSignal): Promise<Cells> {
    const { tensors } = await message(this.#ask('cells', this.#region(rows, keys)), { signal })
    const of = (name: string) => tensors[name].data as Float32Array
    return { weight: of('weight'), score: of('score'), lse: of('lse'), top: of('top') }
  }

  async links(rows: Span, keys: Span, count: number, signal?: AbortSignal): Promise<Links> {
    const found = await json<{ links: [number, number, number][]; exact: boolean }>(
      this.#ask('links', { ...this.#region(rows, keys), count }), { signal })
    return { exact: found.exact, links: found.links.map(([query, key, weight]) => ({ query, key, weight })) }
  }

  async cell(query: number, key: number, signal?: AbortSignal): Promise<Written> {
    interface Said {
      dot: number; scaled: number; bias: number | null; reason: string | null; score: number | null; lse: number | null; row_max: number
      row_sum: number; sink: number; weight: number; model_weight: number; terms: [number, number, number][]; others: number; rest: number
    }
    const { body, tensors } = await message<Said>(this.#ask('cells', {}, `/${query}/${key}`), { signal })
    const q = [...tensors.q.data], k = [...tensors.k.data]
    return {
      q, k, products: q.map((x, n) => x * k[n]), dot: body.dot, scaled: body.scaled, bias: body.bias, reason: body.reason,
      score: body.score ?? -Infinity, lse: body.lse ?? -Infinity, rowMax: body.row_max, rowSum: body.row_sum, sink: body.sink,
      weight: body.weight, modelWeight: body.model_weight, others: body.others, rest: body.rest,
      terms: body.terms.map(([key, score, exponential]) => ({ key, score, exponential })),
    }
  }
}

function tileOf(tensors: Record<string, { data: unknown }>): Tile {
  const of = (name: string) => tensors[name].data as Float32Array
  return { mean: of('mean'), max: of('max'), top: of('top'), rows: tensors.rows.data as Int32Array, keys: tensors.keys.data as Int32Array }
}

export class Near implements HeadMap {
  #peaks: Promise<Float32Array> | null = null
  constructor(private readonly head: Promise<Head>) {}

  async whole(first: boolean, signal?: AbortSignal): Promise<Whole> {
    const { queries, keys } = (await this.head).call
    let bucket = 1
    while (Math.ceil(Math.max(queries, keys) / bucket) > WHOLE) bucket *= 2
    return { ...await this.tile([0, queries], [first || keys === 1 ? 0 : 1, keys], bucket, signal), stored: null }
  }

  async tile(rows: Span, keys: Span, bucket: number, signal?: AbortSignal): Promise<Tile> {
    const head = await this.head, down = edges(rows, bucket), across = edges(keys, bucket)
    const height = down.length - 1, width = across.length - 1
    const mean = new Float32Array(height * width), max = new Float32Array(height * width), top = new Float32Array(height)
    const peaks = await (this.#peaks ??= this.#rows(head))
    const rest = resting(signal)
    for (let r = 0; r < height; r++) {
      for (let i = down[r]; i < down[r + 1]; i++) {
        top[r] = Math.max(top[r], peaks[i])
        for (let c = 0; c < width; c++) {
          for (let j = across[c]; j < across[c + 1]; j++) {
            const weight = number(head, i, j, 'weight')
            mean[r * width + c] += weight
            if (weight > max[r * width + c]) max[r * width + c] = weight
          }
        }
        await rest()
      }
      for (let c = 0; c < width; c++) mean[r * width + c] /= (down[r + 1] - down[r]) * (across[c + 1] - across[c])
    }
    return { mean, max, top, rows: down, keys: across }
  }

  async cells(rows: Span, keys: Span, signal?: AbortSignal): Promise<Cells> {
    const head = await this.head, peaks = await (this.#peaks ??= this.#rows(head))
    const width = keys[1] - keys[0], size = (rows[1] - rows[0]) * width, rest = resting(signal)
    const weight = new Float32Array(size), score = new Float32Array(size)
    for (let i = rows[0], n = 0; i < rows[1]; i++) {
      for (let j = keys[0]; j < keys[1]; j++, n++) {
        score[n] = number(head, i, j, 'masked')
        weight[n] = score[n] === -Infinity ? 0 : number(head, i, j, 'weight')
      }
      await rest()
    }
    return { weight, score, lse: head.lse.subarray(...rows), top: peaks.subarray(...rows) }
  }

  async links(rows: Span, keys: Span, count: number, signal?: AbortSignal): Promise<Links> {
    const head = await this.head, { queries, keys: total, kind } = head.call, rest = resting(signal)
    let links: Link[] = []
    for (let query = rows[0]; query < rows[1]; query++) {
      const own = kind === 'cross' ? -1 : total - queries + query
      for (let key = Math.max(keys[0], 1); key < keys[1]; key++) {
        const weight = key === own ? 0 : number(head, query, key, 'weight')
        if (weight > (links[count - 1]?.weight ?? 0)) links = [...links, { query, key, weight }].sort((a, b) => b.weight - a.weight).slice(0, count)
      }
      await rest()
    }
    return { links, exact: true }
  }

  async cell(query: number, key: number): Promise<Written> {
    return written(await this.head, query, key, TERMS)
  }

  // The largest weight of every row.
  async #rows(head: Head): Promise<Float32Array> {
    const { queries, keys } = head.call, found = new Float32Array(queries), rest = resting()
    for (let i = 0; i < queries; i++) {
      for (let j = 0; j < keys; j++) found[i] = Math.max(found[i], number(head, i, j, 'weight'))
      await rest()
    }
    return found
  }
}

// One weight, and as many exponentials of its row; its own is one of them wherever the mask lets it be seen.
export function written(head: Head, query: number, key: number, most = Infinity): Written {
  const { row, exponentials, ...a } = arithmetic(head, query, key)
  const seen = row.map((_, j) => j).filter((j) => row[j] > -Infinity)
  const chosen = [...seen].sort((x, y) => exponentials[y] - exponentials[x]).slice(0, most)
  if (a.reason === null && !chosen.includes(key)) chosen[chosen.length - 1] = key
  const terms = chosen.map((j) => ({ key: j, score: row[j], exponential: exponentials[j] }))
  return {
    ...a, lse: head.lse[query], terms, others: seen.length - terms.length,
    rest: Math.max(0, a.rowSum - a.sink - terms.reduce((sum, t) => sum + t.exponential, 0)),
  }
}

// The bounds of the buckets of a region, as klieg/survey.py has them: as equal as whole numbers allow.
export function edges([from, to]: Span, bucket: number): Int32Array {
  const count = Math.ceil((to - from) / bucket)
  return Int32Array.from({ length: count + 1 }, (_, n) => from + Math.floor((n * (to - from)) / count))
}

// Lets the page draw every few milliseconds of a long computation, and ends it when nobody waits for it any more.
function resting(signal?: AbortSignal): () => Promise<void> | void {
  let since = performance.now()
  return () => {
    if (performance.now() - since < 8) return
    return new Promise((go, end) => setTimeout(() => {
      since = performance.now()
      if (signal?.aborted) end(new DOMException('', 'AbortError'))
      else go()
    }))
  }
}
