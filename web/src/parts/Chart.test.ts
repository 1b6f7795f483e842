import { fireEvent, render, screen } from '@testing-library/svelte'
import { tick } from 'svelte'
import { expect, test, vi } from 'vitest'
import { HOSTILE } from '../made'
import type { Chart as Told } from './charts'
import Chart from './Chart.svelte'

const chart: Told = {
  title: ['Answer', '答案'], name: ['strength', '强度'], points: ['1', '2', HOSTILE], unit: ['years', '岁'], bars: false,
  series: [{ name: ['soft', '软'], values: [19.472892499702535, -1.5e-7, 3] }, { name: ['hard', '硬'], values: [19, 19, 19] }],
}

function shown(language: 'en' | 'zh' = 'en', mark: number | null = null) {
  vi.spyOn(HTMLElement.prototype, 'clientWidth', 'get').mockReturnValue(464)
  return render(Chart, { chart, language, mark })
}

test('the table has every number as it is, and nothing of it is markup', () => {
  shown()
  const cells = [...document.querySelectorAll('tbody data')]
  expect(cells.map((e) => Number((e as HTMLDataElement).value))).toEqual([19.472892499702535, 19, -1.5e-7, 19, 3, 19])
  expect(cells.map((e) => e.textContent)).toEqual(['19.472892499702535', '19', '−1.5e−7', '19', '3', '19'])
  expect(document.querySelector('img')).toBeNull()
})

test('the point under the pointer is said exactly, and none once it has gone', async () => {
  shown()
  await tick()
  const svg = document.querySelector('.room svg')!
  vi.spyOn(svg, 'getBoundingClientRect').mockReturnValue({ left: 0 } as DOMRect)
  await fireEvent.pointerMove(svg, { clientX: 52 + 50 })
  expect(document.querySelector('.said')!.textContent).toContain('19.472892499702535')
  await fireEvent.pointerMove(svg, { clientX: 10 })
  expect(document.querySelector('.said')!.textContent).not.toContain('19')
  await fireEvent.pointerMove(svg, { clientX: 52 + 200 })
  await fireEvent.pointerLeave(svg)
  expect(document.querySelector('.said')!.textContent!.trim()).toBe('strength')
})

test('in Chinese, with a mark of its own', () => {
  shown('zh', 0)
  expect(screen.getAllByText('答案').length).toBe(1)
  expect(document.querySelector('.said')!.textContent).toContain('软 19.472892499702535')
})
