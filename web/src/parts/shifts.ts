// A possible next token before and after a change: see klieg/whatif.py. Of an unchanged text there is no after.
export interface Shift { token: string; id: number; before: number; after: number; rank_before: number; rank_after: number }
export type Row = Omit<Shift, 'after' | 'rank_after'> & { after: number | null; rank_after: number | null }

export interface ShiftWords { token: string; before: string; later: string; points: string; rank: string }
