// Sparse patterns as klieg/patterns.py writes them: "window:8", "strided:64+global:4", "top:16".
export const PATTERNS = ['window', 'block', 'strided', 'top'] as const
export type Kind = (typeof PATTERNS)[number]
export interface Pattern { kind: Kind; size: number; global: number }

export const LARGEST = 999_999_999   // of nine digits

// Null for anything that is none.
export function read(text: string): Pattern | null {
  const found = /^(window|block|strided|top):(\d{1,9})(?:\+global:(\d{1,9}))?$/.exec(text)
  if (!found || Number(found[2]) < 1 || (found[1] === 'top' && Number(found[3] ?? 0) > 0)) return null
  return { kind: found[1] as Kind, size: Number(found[2]), global: Number(found[3] ?? 0) }
}

export const write = ({ kind, size, global }: Pattern): string => `${kind}:${size}${global && kind !== 'top' ? `+global:${global}` : ''}`
