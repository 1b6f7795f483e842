// Plain Svelte: Vite's plugin and the checker both look for this file.
export default {}
