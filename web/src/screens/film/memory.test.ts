import { expect, test } from 'vitest'
import { groups, held, own, size, type Memory } from './memory'

const layers = (count: number, heads: number, kv_heads: number, window: number | null = null) => Array.from({ length: count }, () => ({ heads, kv_heads, window }))

test('two numbers of each width, in every layer, for every K/V head', () => {
  const memory: Memory = { layers: layers(4, 4, 2), numbers: 32, bytes: 4 }
  expect(own(memory)).toBe('gqa')
  expect(held(memory, 'gqa', 1)).toBe(2 * 4 * 2 * 16 * 4)
  expect(held(memory, 'mha', 18)).toBe(2 * 4 * 4 * 16 * 4 * 18)
  expect(held(memory, 'mqa', 131072)).toBe(64 * 1024 * 1024)
})

test('a window keeps what it sees', () => {
  const memory: Memory = { layers: [...layers(1, 8, 8, 100), ...layers(1, 8, 8)], numbers: 2, bytes: 4 }
  expect(held(memory, 'mha', 50)).toBe(2 * 8 * 50 * 8)
  expect(held(memory, 'mha', 300)).toBe((100 + 300) * 8 * 8)
})

test('a model without groups is compared with one of four query heads a group', () => {
  const memory: Memory = { layers: layers(2, 12, 12), numbers: 128, bytes: 4 }
  expect(own(memory)).toBe('mha')
  expect(groups(memory, memory.layers[0], 'gqa')).toBe(3)
  expect(own({ ...memory, layers: layers(2, 6, 1) })).toBe('mqa')
  expect(groups({ ...memory, layers: layers(2, 6, 1) }, layers(1, 6, 1)[0], 'gqa')).toBe(3)
})

test('sizes', () => {
  expect([0, 512, 1024, 18 * 1024, 13824, 256 * 1024 * 1024].map(size)).toEqual(['0 B', '512 B', '1 KiB', '18 KiB', '13.5 KiB', '256 MiB'])
})
