import { expect, test } from 'vitest'
import { LINKED, read, write, type View } from './hash'

const view: View = {
  text: 'a & b #1 = 小 + ?', model: 'chat', layer: 2, head: 7, stage: 'masked', scale: 'hide', statistic: 'first', screen: 'map', more: { 'map.rows': '3-9' },
  cell: { query: 3, key: 0 }, language: 'zh', theme: 'dark', kind: 'cross', to: 'de', written: null,
}

test('what is written is read back', () => {
  expect(read(write(view))).toEqual({ ...view, written: undefined })
})

test('of what was written an address has the tokens, and what they were written after', () => {
  const written = { after: 'I love', ids: [17, 3, 0] }
  expect(read(write({ ...view, written }))).toMatchObject({ text: 'I love', written })
  expect(write({ ...view, written: { ...written, after: 'a'.repeat(LINKED + 1) } })).not.toMatch(/text=|written=/)
  expect(read('#text=a&written=1.x').written).toBeUndefined()
})

test('a model of one stack has no kind and no language in its address', () => {
  const address = write({ ...view, kind: null, to: '' })
  expect(address).not.toContain('kind=')
  expect(address).not.toContain('to=')
})

test('a text that is too long for an address is left out of it', () => {
  expect(read(write({ ...view, text: 'a'.repeat(LINKED) })).text).toHaveLength(LINKED)
  expect(read(write({ ...view, text: 'a'.repeat(LINKED + 1) })).text).toBeUndefined()
})

test('nonsense is left out', () => {
  const found = read('#layer=-1&head=1e3&stage=all&cell=1.x&lang=fr&theme=pink&kind=sideways')
  expect(Object.values(found).filter((value) => value !== undefined)).toEqual([])
})
