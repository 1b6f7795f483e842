import { expect, test } from 'vitest'
import { end, fitting, layout, type Given } from './layout'

const given = (changed: Partial<Given> = {}): Given => ({
  width: 1376, tall: 674, rows: 5, columns: 5, token: 30, label: 28, folded: 2, panel: 600, beside: true, matrix: 2, ...changed,
})

test('nothing stands on anything else, and all of it is in the box', () => {
  for (const width of [1216, 1376, 1616]) {
    for (const rows of [1, 5, fitting(width - 700, 674)]) {
      const found = layout(given({ width, rows, columns: rows }))
      const order = ['tokens', 'embed', 'cards', 'norm', 'q', 'panel', 'mixed', 'joined', 'projected', 'plus', 'fed', 'plusFed', 'pager'] as const
      order.forEach((name, n) => n && expect(found[name].x, `${name} at ${width}`).toBeGreaterThan(end(found[order[n - 1]])))
      expect(end(found.pager)).toBeLessThanOrEqual(width)
      const [a, b, c] = found.matrices
      expect(b.x).toBeGreaterThan(end(a))
      expect(c.x).toBeGreaterThan(end(b))
      expect(end(c)).toBeLessThanOrEqual(found.panel.w)
      expect(found.values.y).toBeGreaterThan(found.keys.y + rows * found.keys.pitch)
      expect(found.height).toBeGreaterThan(found.values.y)
    }
  }
})

test('the matrix of the step can always be read', () => {
  for (const room of [500, 700, 900, 1200]) {
    const columns = fitting(room, 900)
    for (const matrix of [0, 1, 2]) {
      const found = layout(given({ width: room + 700, rows: columns, columns, matrix }))
      expect(found.matrices[matrix].cell).toBeGreaterThanOrEqual(34)
    }
  }
  expect([fitting(700, 674), fitting(1200, 900), fitting(100, 100)]).toEqual([8, 12, 5])
  expect(layout(given()).matrices.map(({ cell }) => cell)).toEqual(Array(3).fill(layout(given()).matrices[0].cell))
})

test('the name of a matrix has room beside its formula, however few tokens stand below it', () => {
  for (const columns of [1, 2, 3, 4, 5]) {
    const { matrices, panel } = layout(given({ rows: columns, columns }))
    matrices.forEach(({ x, w, cell }, n) => {
      expect([w >= 176, w >= cell * columns]).toEqual([true, true])
      expect(x + w).toBeLessThanOrEqual(n < 2 ? matrices[n + 1].x - 30 : panel.w)
    })
  }
})

test('where there is less room, what follows attention stands below it', () => {
  const found = layout(given({ width: 836, beside: false }))
  expect(end(found.panel)).toBe(836)
  expect(found.low).toBeGreaterThan(found.panel.y + 600)
  expect(found.again).toEqual(found.tokens)
  expect(end(found.list)).toBe(836)
  expect(found.list.w).toBeGreaterThan(150)
})
