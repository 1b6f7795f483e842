// What draws each screen; the bar offers those that are here.
import type { Component } from 'svelte'
import type { Explorer } from '../state/explorer.svelte'
import type { Screen } from '../state/screens'
import Atlas from './atlas/Atlas.svelte'
import Compare from './compare/Compare.svelte'
import Coref from './coref/Coref.svelte'
import Film from './film/Film.svelte'
import Flow from './flow/Flow.svelte'
import Heads from './heads/Heads.svelte'
import Labs from './labs/Labs.svelte'
import Map from './map/Map.svelte'
import Sparse from './sparse/Sparse.svelte'
import Walk from './walk/Walk.svelte'
import WhatIf from './whatif/WhatIf.svelte'

export const PAGES: Partial<Record<Screen, Component<{ explorer: Explorer }>>> = {
  walk: Walk, heads: Heads, map: Map, film: Film, whatif: WhatIf, compare: Compare, flow: Flow, sparse: Sparse, coref: Coref, atlas: Atlas, labs: Labs,
}
