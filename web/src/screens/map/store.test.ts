import { expect, test } from 'vitest'
import type { HeadMap, Span, Tile } from '../../wire/tiles'
import { Tiles } from './store'
import { SURVEYED } from './view'

// A head of which a survey keeps 600 x 400 buckets; what is asked of it is told.
function made(queries: number, keys: number, stored: [number, number] | null) {
  const asked: string[] = [], tile: Tile = { mean: new Float32Array(1), max: new Float32Array(1), top: new Float32Array(1), rows: Int32Array.of(0, queries), keys: Int32Array.of(0, keys) }
  const said = (name: string) => (...given: unknown[]) => {
    asked.push([name, ...given.slice(0, -1)].join(' '))
    return Promise.resolve({ ...tile, stored })
  }
  const map = { whole: said('whole'), tile: said('tile'), surveyed: said('surveyed') } as unknown as HeadMap
  return { asked, tiles: new Tiles(map, { queries, keys }, () => undefined, (e) => { throw e }) }
}
const settled = () => new Promise((done) => setTimeout(done))

test('tiles of the survey’s map lie side by side between its own bounds', async () => {
  const queries = 70_001, keys = 41_003, { asked, tiles } = made(queries, keys, [600, 400])
  expect(tiles.surveyed).toBeNull()
  tiles.want([tiles.whole[1]])
  await settled()
  expect(tiles.surveyed).toEqual([600, 400])
  const edge = (bucket: number, buckets: number, count: number) => Math.floor((bucket * count) / buckets)   // as survey.edges() has them
  const wanted: [number, number, Span][] = [[0, 0, [0, 256]], [1, 0, [256, 512]], [2, 0, [512, 600]], [0, 1, [256, 400]]]
  for (const [row, column, part] of wanted) {
    const slot = tiles.at(SURVEYED, row, column, true), axis = column ? 1 : 0
    const span = axis ? slot.keys : slot.rows, [buckets, count] = axis ? [400, keys] : [600, queries]
    expect([slot.part![axis], span]).toEqual([part, part.map((n) => edge(n, buckets, count))])
    for (const token of [span[0], span[0] + 0.7, span[1] - 1]) expect(tiles.place(SURVEYED, axis, token)).toBe(axis ? column : row)
  }
  tiles.want([tiles.at(SURVEYED, 2, 1, true), tiles.at(SURVEYED, 0, 0, false), tiles.at(64, 1, 0, true)])
  await settled()
  expect(asked).toEqual(['whole true', 'surveyed 512,600 256,400 true', 'surveyed 0,256 0,256 false', 'tile 4096,8192 0,4096 64'])
  expect(tiles.at(SURVEYED, 0, 0, false).keys[0]).toBe(1)
})

test('what is no longer wanted is not waited for, and what is nearest comes first', async () => {
  const { asked, tiles } = made(40_000, 40_000, null)
  tiles.want([tiles.whole[1]])
  await settled()
  const slots = [0, 1, 2, 3, 4].map((column) => tiles.at(16, 3, column, true))
  tiles.want(slots)
  tiles.want([slots[4], slots[3]])
  await settled()
  expect(asked.slice(1).map((what) => what.split(' ')[2])).toEqual(['0,2048', '2048,4096', '4096,6144', '8192,10240', '6144,8192'])
  expect([tiles.surveyed, slots.map((slot) => slot.tile !== null).slice(3)]).toEqual([null, [true, true]])
})
