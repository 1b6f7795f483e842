// One index.html with everything in it: it works from the server, from a file and without a network.
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import katex from 'katex'
import subset from 'subset-font'
import { defineConfig, type Plugin } from 'vite'
import { FORMULAS } from './src/parts/formulas'

// The page can reach its own server and nothing else, also when it is opened as a file.
const POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"

// Puts the built script and style into index.html. Functions as replacements: code is full of `$&`.
function oneFile(): Plugin {
  return {
    name: 'one-file',
    apply: 'build',
    enforce: 'post',
    generateBundle(_, bundle) {
      const page = bundle['index.html']
      if (page?.type !== 'asset') throw new Error('index.html was not built')
      let html = String(page.source).replace('<head>', () => `<head>\n<meta http-equiv="Content-Security-Policy" content="${POLICY}">`)
      for (const [name, file] of Object.entries(bundle)) {
        if (file.type === 'chunk') {
          const code = file.code.replace(/<(\/script|!--)/gi, '\\x3c$1')
          html = html.replace(new RegExp(`<script[^>]*src="[^"]*${name}"></script>`), () => `<script type="module">${code}</script>`)
        } else if (name.endsWith('.css')) {
          html = html.replace(new RegExp(`<link[^>]*href="[^"]*${name}">`), () => `<style>${file.source}</style>`)
        } else continue
        delete bundle[name]
      }
      if (/(src|href)="[^"]*assets\//.test(html)) throw new Error('a file was not put into index.html')
      page.source = html
    },
  }
}

const FORMULA = Object.fromEntries(Object.entries(FORMULAS).map(([name, tex]) => [name, katex.renderToString(tex)]))
const SEEN = Object.values(FORMULAS).map((tex) => katex.renderToString(tex, { output: 'html' })).join('')
const FONTS = [['KaTeX_Main', 'Regular', 'normal'], ['KaTeX_Math', 'Italic', 'italic']]

// Of KaTeX's style sheet the rules, and of its fonts the letters, that the formulas need.
async function styles(file: string): Promise<string> {
  const letters = SEEN.replace(/<[^>]*>/g, ''), classes = new Set([...SEEN.matchAll(/class="([^"]*)"/g)].flatMap(([, names]) => names.split(' ')))
  const faces = await Promise.all(FONTS.map(async ([family, cut, style]) => {
    const woff2 = await subset(readFileSync(`${dirname(file)}/fonts/${family}-${cut}.woff2`), letters, { targetFormat: 'woff2' })
    return `@font-face{font-family:${family};font-style:${style};src:url(data:font/woff2;base64,${woff2.toString('base64')}) format("woff2")}`
  }))
  const needed = (selector: string) => [...selector.matchAll(/\.([\w-]+)/g)].every(([, name]) => name === 'katex-mathml' || classes.has(name))
  const rules = readFileSync(file, 'utf8').replace(/@font-face\{[^}]*\}/g, '')
    .replace(/([^{}]+)\{[^{}]*\}/g, (rule, selectors: string) => (selectors.split(',').some(needed) ? rule : ''))
  return faces.join('') + rules
}

// Typesets the formulas while the page is built: no part of KaTeX runs in it.
function formulas(): Plugin {
  return {
    name: 'formulas',
    enforce: 'pre',
    async load(id) {
      const [file] = id.split('?')
      if (file.endsWith('/src/parts/formulas.ts')) return `export const FORMULAS = ${JSON.stringify(FORMULA)}`
      if (file.endsWith('/katex.min.css')) return await styles(file)
    },
  }
}

export default defineConfig({
  plugins: [formulas(), svelte(), oneFile()],
  build: { target: 'es2022', modulePreload: false, assetsInlineLimit: 100_000 },
  server: { proxy: { '/api': { target: 'http://127.0.0.1:8137', changeOrigin: true } } },
})
