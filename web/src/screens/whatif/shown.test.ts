import { expect, test } from 'vitest'
import type { Source } from '../../wire/source'
import type { Call } from '../../wire/trace'
import { shown } from './shown'

const source = (id: string) => ({ trace: { id } }) as unknown as Source
const call = { index: 1 } as Call

test('the changed pass where there is one; a page in a file cannot change anything', () => {
  expect(shown({ altered: source('c'), after: null }, source('a'), call)).toEqual({ path: 'api/suppositions/c', asked: {}, call, view: { screen: 'heads' } })
  expect(shown({ altered: null, after: 2 }, source('a'), call)).toMatchObject({ path: 'api/suppositions/a', asked: { after: '2' } })
})
