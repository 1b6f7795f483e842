// Finds a token by its number, or the places of a text one after another.
import type { Looking } from './looking.svelte'
import { numbered, Searched } from './units'

export class Finder {
  found = $state.raw<{ wanted: string; tokens: number[]; at: number } | null>(null)
  #searched: Searched | null = null

  constructor(private readonly looking: Looking) {}

  // For another text.
  clear(): void {
    this.#searched = null
    this.found = null
  }

  // Goes there; asked for the same text again, to its next place.
  async find(wanted: string, asKey: boolean): Promise<void> {
    const { axes } = this.looking.explorer, number = numbered(wanted, axes[asKey ? 1 : 0].length)
    if (number !== null) this.found = { wanted, tokens: [number], at: 0 }
    else if (this.found?.wanted === wanted && this.found.tokens.length) this.found = { ...this.found, at: (this.found.at + 1) % this.found.tokens.length }
    else {
      this.#searched ??= new Searched(axes[1])
      this.found = { wanted, tokens: this.#searched.find(wanted), at: 0 }
    }
    const { at, tokens } = this.found
    if (tokens.length) await this.looking.choice.visit(tokens[at], asKey)
    this.looking.sight.redraw()
  }
}
