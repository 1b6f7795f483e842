import { expect, test } from 'vitest'
import { edges, Near } from './tiles'
import type { Call, Head } from './trace'

// 40 queries on 40 keys of width 3, causal; numbers that repeat nowhere.
const N = 40, D = 3
const call: Call = {
  index: 0, layer: 0, kind: 'self', heads: 1, kv_heads: 1, queries: N, keys: N, scale: 0.5, softcap: null, kept: true,
  rules: [{ kind: 'causal', size: 0, reason: 'future' }], statistics: {},
}
const q = Float32Array.from({ length: N * D }, (_, n) => 2 * Math.sin(n * 1.7)), k = Float32Array.from({ length: N * D }, (_, n) => 2 * Math.cos(n * 0.9))
const score = (i: number, j: number) => 0.5 * [0, 1, 2].reduce((sum, n) => sum + q[i * D + n] * k[j * D + n], 0)
const lse = Float32Array.from({ length: N }, (_, i) => Math.log(Array.from({ length: i + 1 }, (_, j) => Math.exp(score(i, j))).reduce((a, b) => a + b, 0)))
const map = Array.from({ length: N }, (_, i) => Array.from({ length: N }, (_, j) => (j > i ? 0 : Math.exp(score(i, j) - lse[i]))))
const head: Head = { call, head: 0, d: D, q, k, lse, v: null, output: null, unrotated_q: null, unrotated_k: null, bias: null, tables: [null] }
const near = new Near(Promise.resolve(head))
const cut = (rows: number[], keys: number[]) => map.slice(...rows).flatMap((row) => row.slice(...keys))

test('a tile has the mean and the largest weight of every bucket', async () => {
  const tile = await near.tile([8, 31], [4, 24], 8)
  expect([...tile.rows]).toEqual([8, 15, 23, 31])
  expect([...tile.keys]).toEqual([4, 10, 17, 24])
  for (let r = 0; r < 3; r++) {
    expect(tile.top[r]).toBeCloseTo(Math.max(...cut([tile.rows[r], tile.rows[r + 1]], [0, N])), 6)
    for (let c = 0; c < 3; c++) {
      const all = cut([tile.rows[r], tile.rows[r + 1]], [tile.keys[c], tile.keys[c + 1]])
      expect(tile.max[r * 3 + c]).toBeCloseTo(Math.max(...all), 6)
      expect(tile.mean[r * 3 + c]).toBeCloseTo(all.reduce((a, b) => a + b, 0) / all.length, 6)
    }
  }
})

test('the whole map, with the first token and without it', async () => {
  expect((await near.whole(true)).max).toHaveLength(N * N)
  const without = await near.whole(false)
  expect([without.keys[0], without.keys.length]).toEqual([1, N])
  expect(without.max[0]).toBe(0)
})

test('cells are weights and masked scores', async () => {
  const cells = await near.cells([5, 8], [3, 9])
  cut([5, 8], [3, 9]).forEach((weight, n) => {
    const [i, j] = [5 + Math.floor(n / 6), 3 + (n % 6)]
    expect(cells.weight[n]).toBeCloseTo(weight, 6)
    expect(cells.score[n]).toBe(j > i ? -Infinity : Math.fround(score(i, j)))
  })
  expect([...cells.lse]).toEqual([...lse.slice(5, 8)])
})

test('the strongest links leave the first token and the query itself aside', async () => {
  const { links, exact } = await near.links([0, N], [0, 30], 7)
  const all = map.flatMap((row, query) => row.map((weight, key) => ({ query, key, weight }))).filter(({ query, key }) => key > 0 && key < 30 && key < query)
  all.sort((a, b) => b.weight - a.weight)
  expect(exact).toBe(true)
  expect(links.map(({ query, key }) => [query, key])).toEqual(all.slice(0, 7).map(({ query, key }) => [query, key]))
})

test('one weight is written out, its largest terms and the sum of the others', async () => {
  const a = await near.cell(39, 17)
  expect(a.weight).toBeCloseTo(map[39][17], 6)
  expect(a.terms.length + a.others).toBe(40)
  expect(a.terms.some((term) => term.key === 17)).toBe(true)
  expect(a.terms.reduce((sum, term) => sum + term.exponential, a.rest + a.sink)).toBeCloseTo(a.rowSum, 9)
  expect((await near.cell(3, 9)).reason).toBe('future')
})

test('a long computation ends when nobody waits for it', async () => {
  const gone = new AbortController(), slow = { ...head, get q() { const end = performance.now() + 0.1; while (performance.now() < end); return q } }
  const asked = new Near(Promise.resolve(slow)).tile([0, N], [0, N], 1, gone.signal)
  gone.abort()
  await expect(asked).rejects.toThrow()
})

test('buckets are as equal as whole numbers allow', () => {
  expect([...edges([3, 20], 5)]).toEqual([3, 7, 11, 15, 20])
  expect([...edges([0, 8], 16)]).toEqual([0, 8])
})
