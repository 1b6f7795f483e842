import { expect, test, vi } from 'vitest'
import { events, parsed } from './events'

// A server that answers with these pieces.
function answers(pieces: string[]): void {
  const bytes = pieces.map((piece) => new TextEncoder().encode(piece))
  vi.stubGlobal('fetch', () => Promise.resolve(new Response(new ReadableStream({
    start(controller) {
      bytes.forEach((piece) => controller.enqueue(piece))
      controller.close()
    },
  }))))
}

test('events come whole, wherever the pieces of the answer are cut', async () => {
  const text = 'event: token\ndata: {"token": "沈"}\n\nevent: end\ndata: {"id": "a: b"}\n\n'
  for (let cut = 1; cut < text.length; cut += 7) {
    answers([text.slice(0, cut), text.slice(cut)])
    const found = []
    for await (const event of events('x', {})) found.push(event)
    expect(found).toEqual([{ name: 'token', body: { token: '沈' } }, { name: 'end', body: { id: 'a: b' } }])
  }
})

test('an error on the way is the server’s line', async () => {
  answers(['event: token\ndata: {}\n\n', 'event: error\ndata: {"error": "it broke."}\n\n'])
  const read = async () => { for await (const _ of events('x', {})); }
  await expect(read()).rejects.toMatchObject({ line: 'it broke.' })
})

test('one event', () => expect(parsed('event: end\ndata: {"n": 1}')).toEqual({ name: 'end', body: { n: 1 } }))
