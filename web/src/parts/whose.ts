// The model or file whose numbers are shown, what else there is to choose, and its shape.
import type { Explorer } from '../state/explorer.svelte'

export function whose({ trace, words, model, models, files, exported, shipped }: Explorer): { options: string[]; value: string; note: string } {
  const encoder = trace?.calls.filter((c) => c.kind === 'encoder').length ?? 0
  const layers = trace?.translation ? `${encoder} + ${trace.model.layers}` : `${trace?.model.layers}`
  const own = trace && (!shipped || trace.model.name === model)   // the shape is that of the model that is named
  return {
    options: exported ? [] : [...files, ...models], value: model || (trace?.model.name ?? ''),
    note: own ? words.shape(layers, trace.model.heads, trace.model.kv_heads) : '',
  }
}
