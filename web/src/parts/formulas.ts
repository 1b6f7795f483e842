// The formulas of the page in TeX. The build puts what KaTeX makes of each in the place of its TeX: see vite.config.ts.
export const FORMULAS = {
  dot: String.raw`QK^\top`,
  scaled: String.raw`QK^\top\!/\sqrt{d}`,
  masked: String.raw`QK^\top\!/\sqrt{d} + M`,
  weight: String.raw`\operatorname{softmax}(QK^\top\!/\sqrt{d})`,
  weightMasked: String.raw`\operatorname{softmax}(QK^\top\!/\sqrt{d} + M)`,
  thenScaled: String.raw`\cdot\,/\sqrt{d}`,
  thenMasked: String.raw`\cdot\,/\sqrt{d} + M`,
  thenWeight: String.raw`\operatorname{softmax}(\cdot)`,
}

export type Formula = keyof typeof FORMULAS
