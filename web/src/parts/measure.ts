// How wide a text is drawn, in the page's own type.
export const FAMILY = "Inter, 'PingFang SC', 'Noto Sans SC', 'Noto Sans CJK SC', 'Microsoft YaHei', system-ui, sans-serif"

let pen: CanvasRenderingContext2D | undefined

export function measured(text: string, font = `13px ${FAMILY}`): number {
  pen ??= document.createElement('canvas').getContext('2d')!
  pen.font = font
  return pen.measureText(text).width
}

export const widest = (texts: string[], font?: string): number => Math.max(0, ...texts.map((text) => measured(text, font)))
