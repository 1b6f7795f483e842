// The bytes of a message, as klieg/views/wire.py packs them: safetensors, with JSON under "klieg" in the metadata.

export interface Tensor { shape: number[]; data: Float32Array | Int32Array | Uint8Array }
export interface Message<Body> { body: Body; tensors: Record<string, Tensor> }

interface Place { dtype: string; shape: number[]; data_offsets: [number, number] }

const ARRAYS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array } as const

export function unpack<Body>(bytes: ArrayBuffer): Message<Body> {
  const length = bytes.byteLength >= 8 ? Number(new DataView(bytes).getBigUint64(0, true)) : NaN
  if (!(8 + length <= bytes.byteLength)) throw new Error('it is cut short')
  const { __metadata__: metadata, ...places } = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length))) as
    Record<string, Place> & { __metadata__?: { klieg?: string } }
  if (!metadata?.klieg) throw new Error('it is no message of Klieg')
  const tensors = Object.entries(places).map(([name, place]) => [name, tensor(bytes, 8 + length, name, place as Place)])
  return { body: JSON.parse(metadata.klieg) as Body, tensors: Object.fromEntries(tensors) as Record<string, Tensor> }
}

// A view onto the bytes: safetensors keep their tensors aligned, wide types first.
function tensor(bytes: ArrayBuffer, start: number, name: string, { dtype, shape, data_offsets: [from, to] }: Place): Tensor {
  const Numbers = ARRAYS[dtype as keyof typeof ARRAYS]
  const count = shape.reduce((a, b) => a * b, 1)
  if (!Numbers || count * Numbers.BYTES_PER_ELEMENT !== to - from || start + to > bytes.byteLength) {
    throw new Error(`${name} of shape ${shape} came as ${to - from} bytes of ${dtype}`)
  }
  return { shape, data: new Numbers(bytes, start + from, count) }
}

// The tensor (rows, ...) at one index of its first axis.
export function row({ shape, data }: Tensor, index: number): Tensor {
  const size = shape.slice(1).reduce((a, b) => a * b, 1)
  return { shape: shape.slice(1), data: data.subarray(index * size, (index + 1) * size) }
}
