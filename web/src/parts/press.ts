// Keys: which are the arrows, and which does a screen get.
export const ARROWS: Record<string, [down: number, across: number]> = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
}

// Where one writes, every key is a letter.
export const writes = (target: EventTarget | null): boolean =>
  target instanceof Element && target.matches('textarea, select, input:not([type=range], [type=radio], [type=checkbox])')

// What has the focus comes first: a button is pressed by Enter and the space bar, a choice or a slider moved by arrows.
function needs(target: Element, key: string): boolean {
  if (writes(target) || target.closest('dialog')) return true
  if (target.matches('input')) return key.startsWith('Arrow') || (key === ' ' && !target.matches('[type=range]'))
  return (key === ' ' || key === 'Enter') && target.closest('button, a, summary') !== null
}

// Does what a key stands for, letters in either case.
export function press(e: KeyboardEvent, acts: Record<string, (() => void) | null>): void {
  if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || (e.target instanceof Element && needs(e.target, e.key))) return
  const act = acts[e.key.length === 1 ? e.key.toLowerCase() : e.key]
  if (!act) return
  e.preventDefault()
  act()
}
