import { expect, test } from 'vitest'
import { read, write, type View } from './hash'

const view: View = {
  text: 'a & b #1 = 小 + ?', model: 'chat', layer: 2, head: 7, stage: 'masked', scale: 'hide', statistic: 'first',
  cell: { query: 3, key: 0 }, language: 'zh',
}

test('what is written is read back', () => {
  expect(read(write(view))).toEqual(view)
})

test('nonsense is left out', () => {
  const found = read('#layer=-1&head=1e3&stage=all&cell=1.x&lang=fr')
  expect(Object.values(found).filter((value) => value !== undefined)).toEqual([])
})
