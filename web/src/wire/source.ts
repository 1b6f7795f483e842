// Where a trace comes from: the page's own server, or the file that the page is. Both answer the same questions.
import { unpack, type Message, type Tensor } from './pack'
import { Far, Near, type HeadMap } from './tiles'
import { decode, headOf, join, pick, type Call, type Candidate, type Course, type Head, type Stream, type Trace } from './trace'

const NEAR = 512   // tokens up to which the page computes a map by itself

export interface Source {
  readonly trace: Trace
  head(call: Call, head: number): Promise<Head>
  stream(call: Call, rows: number[]): Promise<Stream>
  next(after: number, count?: number): Promise<Candidate[]>
  map(call: Call, head: number, opened: Head | null): HeadMap   // `opened`: that head, where it is at hand
  close(): void
}

// Carries one line that may be shown; null where the server could not be reached at all.
export class ServerError extends Error {
  constructor(readonly line: string | null, readonly status = 0) { super(line ?? 'unreachable') }
}

export interface Offer { models: string[]; files: string[] }
export const offer = (signal?: AbortSignal): Promise<Offer> => json('api/models', { signal })

// Have a model read a text, and what was written after it; a translator translates it.
export async function read(text: string, model: string, to: string, signal: AbortSignal, written: number[] = []): Promise<Source> {
  const body = { text, model, ...(to && { to }), ...(written.length && { written }) }
  return new Served(decode(await message('api/traces', { ...post(body), signal })))
}

// Open a trace that the server has by this id: a file that it was started with, or one that a job made.
export const open = async (id: string, signal?: AbortSignal): Promise<Source> =>
  new Served(decode(await message(`api/traces/${encodeURIComponent(id)}`, { signal })))

class Served implements Source {
  constructor(readonly trace: Trace) {}
  #path = (rest: string) => `api/traces/${encodeURIComponent(this.trace.id)}/${rest}`

  async head(call: Call, head: number): Promise<Head> {
    return headOf(call, head, (await message(this.#path(`heads/${call.index}/${head}`))).tensors)
  }

  async stream(call: Call, rows: number[]): Promise<Stream> {
    const asked = new URLSearchParams(rows.map((row) => ['row', `${row}`]))
    const { body, tensors } = await message<Course>(this.#path(`streams/${call.kind}/${call.layer}?${asked}`))
    return { call, rows, course: body, tensors }
  }

  async next(after: number, count?: number): Promise<Candidate[]> {
    return (await json<{ candidates: Candidate[] }>(this.#path(`next/${after}${count ? `?count=${count}` : ''}`))).candidates
  }

  // A short text's map is computed here, a long one's where its q and k are.
  map(call: Call, head: number, opened: Head | null): HeadMap {
    return opened && call.keys <= NEAR ? new Near(Promise.resolve(opened)) : new Far(this.#path(''), `${call.index}/${head}`)
  }

  // Also while the page is being closed.
  close(): void {
    void fetch(`api/traces/${encodeURIComponent(this.trace.id)}`, { method: 'DELETE', keepalive: true }).catch(() => undefined)
  }
}

// A trace that the page carries in itself.
export class Embedded implements Source {
  readonly trace: Trace
  readonly #tensors: Record<string, Tensor>

  constructor(base64: string) {
    const found = unpack<Parameters<typeof decode>[0]['body']>(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer)
    this.trace = decode(found)
    this.#tensors = found.tensors
  }

  head(call: Call, head: number): Promise<Head> {
    return Promise.resolve(headOf(call, head, this.#tensors, `calls.${call.index}.`))
  }

  stream(call: Call, rows: number[]): Promise<Stream> {
    const { tensors: places, ...course } = this.trace.streams?.[`${call.kind}.${call.layer}`] ?? { why: '', tensors: {} }
    const tensors = Object.fromEntries(Object.entries(places).map(([name, place]) => [name, pick(this.#tensors[place], rows)]))
    const outputs = this.#tensors[`calls.${call.index}.output`]
    if (outputs) tensors.joined = pick(join(outputs), rows)
    return Promise.resolve({ call, rows, course, tensors })
  }

  // A file carries the first few.
  next(after: number): Promise<Candidate[]> {
    return Promise.resolve(this.trace.next?.find((n) => n.after === after)?.candidates ?? [])
  }

  map(call: Call, head: number, opened: Head | null): HeadMap {
    return new Near(opened ? Promise.resolve(opened) : this.head(call, head))
  }

  close(): void {}
}

export const post = (body: object): RequestInit =>
  ({ method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) })

export async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return await (await answer(path, init)).json() as T
}

export async function message<Body>(path: string, init?: RequestInit): Promise<Message<Body>> {
  return unpack<Body>(await (await answer(path, init)).arrayBuffer())
}

// Refusals come in the language of the page.
export async function answer(path: string, init?: RequestInit): Promise<Response> {
  await null   // the first question is asked before the page has said its language
  const language = globalThis.document?.documentElement.lang ?? 'en'   // there is no page in a test of this file alone
  const found = await reached(fetch(path, { ...init, headers: { ...init?.headers, 'Accept-Language': language } }))
  if (found.ok) return found
  const said = await found.json().catch(() => null) as { error?: string } | null
  throw new ServerError(said?.error ?? null, found.status)
}

// What the network gives; where it breaks, the server was not reached. Who stops asking is no failure.
export const reached = <T>(asked: Promise<T>): Promise<T> =>
  asked.catch((e: unknown) => { throw e instanceof DOMException ? e : new ServerError(null) })
