// How the page is tested: its arithmetic as it is; its components, whose names are capital, in happy-dom, where each is mounted
// and taken away again. Files share what they import.
import { svelteTesting } from '@testing-library/svelte/vite'
import { defineConfig, mergeConfig } from 'vitest/config'
import page from './vite.config'

export default mergeConfig(page, defineConfig({
  test: {
    pool: 'threads', isolate: false, unstubGlobals: true, restoreMocks: true,
    projects: [
      { extends: true, test: { name: 'arithmetic', include: ['src/**/[a-z]*.test.ts'] } },
      { extends: true, plugins: [svelteTesting()], test: { name: 'components', include: ['src/**/[A-Z]*.test.ts'], environment: 'happy-dom' } },
    ],
  },
}))
