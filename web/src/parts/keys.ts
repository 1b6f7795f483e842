// The keys by screen, as the list of keys and the foot of the page say them.
import type { Screen } from '../state/screens'
import type { Words } from '../state/words'

export type Key = [key: string, meaning: keyof Words['keys']]

export const EVERYWHERE: Key[] = [
  ['1 – 9', 'screens'], ['[ ]', 'layer'], [', .', 'head'], ['/', 'text'], ['↵', 'send'], ['⇧ ↵', 'line'], ['D', 'theme'], ['Esc', 'back'],
  ['Tab', 'next'], ['?', 'help'], ['P', 'sparse'], ['C', 'coref'],
]
export const ON: Record<Screen, Key[]> = {
  walk: [['Space', 'play'], ['← →', 'step'], ['↑ ↓ ← →', 'cell'], ['↵', 'all']],
  heads: [['↑ ↓ ← →', 'move'], ['↵', 'all'], ['L', 'scale'], ['S', 'sort']],
  map: [['↑ ↓ ← →', 'pan'], ['+ −', 'zoom'], ['J', 'strongest'], ['↵', 'write'], ['L', 'scale'], ['T', 'unit'], ['/', 'find'], ['⇧ ↵', 'admirer']],
  film: [['Space', 'play'], ['← →', 'frame'], ['↑ ↓', 'candidate'], ['B', 'branch'], ['K', 'branches'], ['Esc', 'stop']],
  whatif: [['↑ ↓ ← →', 'move'], ['↵', 'join'], ['X', 'cut'], ['M', 'mute'], ['R', 'rank'], ['L', 'scale'], ['⌫', 'undo']],
  compare: [['← →', 'token'], ['↑ ↓', 'other']],
  flow: [['← →', 'token'], ['F', 'rested'], ['R', 'compute'], ['Esc', 'stop']],
  sparse: [['← →', 'size'], ['G', 'global'], ['R', 'compute']],
  coref: [['A', 'reading'], ['R', 'run'], ['Esc', 'stop']],
  atlas: [['↑ ↓ ← →', 'move'], ['S', 'score'], ['↵', 'open']],
  labs: [['[ ]', 'lab'], ['R', 'run'], ['Esc', 'stop']],
}
