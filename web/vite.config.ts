// One index.html with everything in it: it works from the server, from a file and without a network.
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type Plugin } from 'vite'

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

export default defineConfig({
  plugins: [svelte(), oneFile()],
  build: { target: 'es2022', modulePreload: false, assetsInlineLimit: 100_000 },
  server: { proxy: { '/api': { target: 'http://127.0.0.1:8137', changeOrigin: true } } },
})
