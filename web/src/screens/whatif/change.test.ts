import { expect, test } from 'vitest'
import { contains, heads, join, put, read, split, toggled, write, type Change } from './change'

const here = { kind: null, layer: 3, head: 2, group: 1 }

test('what is written is read back, and nonsense is left to the server', () => {
  const changes: [string, Change][] = [
    ['mute 3.2', { verb: 'mute', heads: '3.2' }],
    ['mute cross:3.g1', { verb: 'mute', heads: 'cross:3.g1' }],
    ['hide-first all', { verb: 'hide-first', heads: 'all' }],
    ['cut 3.all.4.1', { verb: 'cut', heads: '3.all', query: 4, key: 1 }],
    ['cut all.4.1', { verb: 'cut', heads: 'all', query: 4, key: 1 }],
    ['sharpen 3.2=0.25', { verb: 'sharpen', heads: '3.2', factor: 0.25 }],
    ['keep all=strided:8+global:1', { verb: 'keep', heads: 'all', pattern: 'strided:8+global:1' }],
    ['keep 3.g1=top:4', { verb: 'keep', heads: '3.g1', pattern: 'top:4' }],
    ['replace a;b=c=d', { verb: 'replace', old: 'a;b', now: 'c=d' }],
  ]
  for (const [text, change] of changes) {
    expect(read(text)).toEqual(change)
    expect(write(change)).toBe(text)
  }
  for (const text of ['mute', 'mute 3', 'cut 3.2.1', 'sharpen 3.2=x', 'keep all=window', 'replace =x', 'paste 1.1']) expect(read(text)).toBeNull()
})

test('a list of changes goes through an address', () => {
  const list = ['mute 3.2', 'replace a;b=c\\', 'replace x=']
  expect(split(join(list))).toEqual(list)
  expect(join(['mute 3.2', 'cut 1.0.2.1'])).toBe('mute 3.2;cut 1.0.2.1')
  expect(split('')).toEqual([])
})

test('heads by their scope', () => {
  expect((['head', 'group', 'layer', 'all'] as const).map((scope) => heads(here, scope))).toEqual(['3.2', '3.g1', '3.all', 'all'])
  expect(heads({ ...here, kind: 'cross' }, 'head')).toBe('cross:3.2')
  for (const name of ['3.2', '3.g1', '3.all', 'all']) expect(contains(name, here)).toBe(true)
  for (const name of ['3.1', '2.all', '3.g0']) expect(contains(name, here)).toBe(false)
  expect(contains('3.2', { ...here, kind: 'cross' })).toBe(true)   // a translator's cross-attention, where none is named
  expect(contains('3.2', { ...here, kind: 'self' })).toBe(false)
  expect(contains('self:3.all', { ...here, kind: 'self' })).toBe(true)
})

test('a change is made once', () => {
  expect(toggled(['mute 3.2', 'mute 1.1'], 'mute 3.2')).toEqual(['mute 1.1'])
  expect(toggled(['mute 1.1'], 'mute 3.2')).toEqual(['mute 1.1', 'mute 3.2'])
  expect(put(['sharpen 3.2=2', 'mute 1.1'], { verb: 'sharpen', heads: '3.2', factor: 4 })).toEqual(['sharpen 3.2=4', 'mute 1.1'])
  expect(put(['replace a=b'], { verb: 'replace', old: 'a', now: 'c' })).toEqual(['replace a=c'])
  expect(put(['replace a=b'], { verb: 'replace', old: 'b', now: 'c' })).toEqual(['replace a=b', 'replace b=c'])
})
