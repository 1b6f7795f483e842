// What is saved of what if: the changed pass beside the unchanged one, and the ranking where there is one; a page in a file has no
// model to change, and shows the heads.
import type { Shown } from '../../parts/save'
import type { Source } from '../../wire/source'
import type { Call } from '../../wire/trace'
import type { Supposition } from './whatif.svelte'

export function shown({ altered, after }: Pick<Supposition, 'altered' | 'after'>, source: Source, call: Call): Shown {
  const { id } = (altered ?? source).trace
  return {
    path: `api/suppositions/${encodeURIComponent(id)}`, asked: after === null ? {} : { after: `${after}` }, call, view: { screen: 'heads' },
  }
}
