// The two questions that the page asks its own server.
import { decode, type Message, type Trace } from './wire'

// Carries one line that may be shown; null where the server could not be reached at all.
export class ServerError extends Error {
  constructor(readonly line: string | null) { super(line ?? 'unreachable') }
}

export async function models(): Promise<string[]> {
  return (await ask<{ models: string[] }>('api/models')).models
}

// A translator of several languages says which they are, and which of them was taken.
export interface Answer { trace: Trace; languages: string[]; to: string }

export async function trace(text: string, model: string, to: string, signal: AbortSignal): Promise<Answer> {
  const body = JSON.stringify(to ? { text, model, to } : { text, model })
  const found = await ask<Message & { languages?: string[]; to?: string | null }>('api/trace', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body, signal })
  return { trace: decode(found), languages: found.languages ?? [], to: found.to ?? '' }
}

async function ask<T>(path: string, init?: RequestInit): Promise<T> {
  let answer: Response
  try {
    answer = await fetch(path, init)
  } catch (e) {
    throw e instanceof DOMException ? e : new ServerError(null)
  }
  const found = await answer.json().catch(() => null)
  if (!answer.ok) throw new ServerError(found?.error ?? `${answer.status} ${answer.statusText}`)
  return found as T
}
