// Where the page begins: it is mounted with what it carries in itself, and starts.
import { mount } from 'svelte'
import App from './App.svelte'
import './app.css'
import { Explorer } from './state/explorer.svelte'

// An exported page carries its trace in itself and never asks a server; a served one carries what it shows first.
const carried = (id: string) => document.getElementById(id)?.textContent ?? null
const view = carried('klieg-view')   // of an exported page: what it was saved of
if (view && !location.hash && location.protocol !== 'about:') history.replaceState(null, '', `#${view}`)
const explorer = new Explorer(carried('klieg-trace'), carried('klieg-first'))
mount(App, { target: document.getElementById('app')!, props: { explorer } })
void explorer.start()
