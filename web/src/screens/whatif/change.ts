// Changes as klieg/changes.py writes them, "mute 3.2": what the page sends and keeps in its address.
export type Scope = 'head' | 'group' | 'layer' | 'all'
export interface Place { kind: string | null; layer: number; head: number; group: number }

export type Change =
  | { verb: 'mute' | 'hide-first'; heads: string }
  | { verb: 'cut'; heads: string; query: number; key: number }
  | { verb: 'sharpen'; heads: string; factor: number }
  | { verb: 'keep'; heads: string; pattern: string }
  | { verb: 'replace'; old: string; now: string }

const HEADS = String.raw`(?:(?:encoder|self|cross):)?(?:all|\d+\.(?:\d+|g\d+|all))`
const CUT = new RegExp(String.raw`^cut (${HEADS})\.(\d+)\.(\d+)$`)
const SHARPEN = new RegExp(String.raw`^sharpen (${HEADS})=(\d+(?:\.\d*)?(?:e-?\d+)?)$`)
const KEEP = new RegExp(String.raw`^keep (${HEADS})=((?:(?:window|block|strided):\d+(?:\+global:\d+)?)|top:\d+)$`)
const PLAIN = new RegExp(`^(mute|hide-first) (${HEADS})$`)
const REPLACE = /^replace ([^=]+)=([^]*)$/

// Null where the server has to say what is wrong with it.
export function read(text: string): Change | null {
  const plain = PLAIN.exec(text), cut = CUT.exec(text), sharpen = SHARPEN.exec(text), keep = KEEP.exec(text), replace = REPLACE.exec(text)
  if (plain) return { verb: plain[1] as 'mute' | 'hide-first', heads: plain[2] }
  if (cut) return { verb: 'cut', heads: cut[1], query: Number(cut[2]), key: Number(cut[3]) }
  if (sharpen) return { verb: 'sharpen', heads: sharpen[1], factor: Number(sharpen[2]) }
  if (keep) return { verb: 'keep', heads: keep[1], pattern: keep[2] }
  if (replace) return { verb: 'replace', old: replace[1], now: replace[2] }
  return null
}

export function write(change: Change): string {
  switch (change.verb) {
    case 'cut': return `cut ${change.heads}.${change.query}.${change.key}`
    case 'sharpen': return `sharpen ${change.heads}=${change.factor}`
    case 'keep': return `keep ${change.heads}=${change.pattern}`
    case 'replace': return `replace ${change.old}=${change.now}`
    default: return `${change.verb} ${change.heads}`
  }
}

// The heads of a change: one, those that share its keys and values, those of its layer, or all.
export function heads({ kind, layer, head, group }: Place, scope: Scope): string {
  const name = { head: `${layer}.${head}`, group: `${layer}.g${group}`, layer: `${layer}.all`, all: 'all' }[scope]
  return kind ? `${kind}:${name}` : name
}

// Whether heads that a change names are, or contain, the head at a place. Without a kind a translator's are its cross-attention.
export function contains(named: string, place: Place): boolean {
  const colon = named.indexOf(':')
  if (place.kind && (colon < 0 ? 'cross' : named.slice(0, colon)) !== place.kind) return false
  const bare = { ...place, kind: null }, rest = named.slice(colon + 1)
  return (['head', 'group', 'layer', 'all'] as const).some((scope) => heads(bare, scope) === rest)
}

// Added, or taken away where it is in force.
export const toggled = (list: string[], change: string): string[] =>
  list.includes(change) ? list.filter((each) => each !== change) : [...list, change]

// A head is sharpened once and made sparse once, and a word replaced once: the new change stands where the old one did.
export function put(list: string[], change: Change): string[] {
  const same = (text: string): boolean => {
    const known = read(text)
    return (known?.verb === 'sharpen' && change.verb === 'sharpen') || (known?.verb === 'keep' && change.verb === 'keep') ? known.heads === change.heads
      : known?.verb === 'replace' && change.verb === 'replace' ? known.old === change.old : text === write(change)
  }
  return list.some(same) ? list.map((each) => (same(each) ? write(change) : each)) : [...list, write(change)]
}

// The list in an address: joined by semicolons; one inside of a word has a backslash before it.
export const join = (list: string[]): string => list.map((each) => each.replace(/[\\;]/g, '\\$&')).join(';')

export function split(text: string): string[] {
  const found: string[] = []
  for (const [part] of text.matchAll(/(?:\\[^]|[^;\\])+/g)) found.push(part.replace(/\\([^])/g, '$1'))
  return found
}
