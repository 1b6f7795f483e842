import { expect, test } from 'vitest'
import { part } from './save'

const call = { queries: 100, keys: 80 }

test('the part of the map that is in view', () => {
  expect(part(call, { 'map.at': '50,40,20', 'map.scale': 'log' })).toEqual({ scale: 'log', rows: '40-60', keys: '30-50' })
})

test('a part is never beyond the map, and never empty', () => {
  expect(part(call, { 'map.at': '0,79,400', 'map.scale': 'row' })).toEqual({ scale: 'linear', rows: '0-100', keys: '0-80' })
  expect(part(call, { 'map.at': '99,0,0.5' })).toEqual({ scale: 'log', rows: '99-100', keys: '0-1' })
})

test('an address without a place is the whole map', () => {
  expect(part(call, {})).toEqual({ scale: 'log' })
  expect(part(call, { 'map.at': 'x' })).toEqual({ scale: 'log' })
})
