import { mount } from 'svelte'
import App from './App.svelte'
import './app.css'
import { Explorer } from './explorer.svelte'

// An exported page carries its trace in itself and never asks a server.
const embedded = document.getElementById('klieg-trace')?.textContent ?? null
const explorer = new Explorer(embedded)
mount(App, { target: document.getElementById('app')!, props: { explorer } })
void explorer.start()
