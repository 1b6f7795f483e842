// Server-sent events of a job that answers while it works, such as a film; a refusal on the way is a ServerError.
import { answer, reached, ServerError } from './source'

export interface Event { name: string; body: unknown }

export async function* events(path: string, init: RequestInit): AsyncGenerator<Event> {
  const reader = (await answer(path, init)).body!.pipeThrough(new TextDecoderStream()).getReader()
  let held = ''
  for (;;) {
    const { value, done } = await reached(reader.read())
    if (done) return
    const parts = (held + value).split('\n\n')
    held = parts.pop()!
    for (const part of parts) {
      const event = parsed(part)
      if (event.name === 'error') throw new ServerError((event.body as { error: string }).error)
      yield event
    }
  }
}

// One event: the lines of its name and of its JSON.
export function parsed(text: string): Event {
  const of = (field: string) => text.split('\n').filter((line) => line.startsWith(`${field}: `)).map((line) => line.slice(field.length + 2)).join('\n')
  return { name: of('event'), body: JSON.parse(of('data')) }
}
