import { expect, test } from 'vitest'
import { line, phrase } from './line'

test('tokens that fit stand side by side, in the same places from step to step', () => {
  const widths = [20, 40, 30, 10]
  const early = line(widths, 2, 400), late = line(widths, 4, 400)
  expect([...late.x]).toEqual([10, 20 + 22 + 20, 82 + 22 + 15, 134 + 22 + 5])
  expect([...early.x]).toEqual([...late.x].slice(0, 2))
  expect(late.folded).toBe(0)
})

test('what does not fit becomes ticks in front, in order, and no word leaves the room', () => {
  const widths = Array.from({ length: 300 }, (_, n) => 20 + (n % 5) * 7)
  for (const [to, room] of [[300, 900], [40, 300], [7, 60], [1, 10]]) {
    const { x, folded, fold } = line(widths, to, room)
    expect(x.length).toBe(to)
    for (let n = 1; n < to; n++) expect(x[n]).toBeGreaterThan(x[n - 1])
    if (folded < to - 1) expect(x[to - 1] + widths[to - 1] / 2).toBeLessThanOrEqual(room)
    if (folded) expect(x[folded] - widths[folded] / 2).toBeGreaterThan(fold)
  }
})

test('labels become a phrase', () => {
  expect(phrase(['love', 'you', ',', 'un', '·able'])).toBe('love you, unable')
  expect(phrase(['小', '沈', '阳'])).toBe('小沈阳')
})
