import { expect, test } from 'vitest'
import { read, write, type View } from './hash'

const view: View = {
  text: 'a & b #1 = 小 + ?', model: 'chat', layer: 2, head: 7, stage: 'masked', scale: 'hide', statistic: 'first',
  cell: { query: 3, key: 0 }, language: 'zh', kind: 'cross', to: 'de',
}

test('what is written is read back', () => {
  expect(read(write(view))).toEqual(view)
})

test('a model of one stack has no kind and no language in its address', () => {
  const address = write({ ...view, kind: null, to: '' })
  expect(address).not.toContain('kind=')
  expect(address).not.toContain('to=')
})

test('nonsense is left out', () => {
  const found = read('#layer=-1&head=1e3&stage=all&cell=1.x&lang=fr&kind=sideways')
  expect(Object.values(found).filter((value) => value !== undefined)).toEqual([])
})
