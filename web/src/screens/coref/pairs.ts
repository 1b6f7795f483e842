// Pairs of sentences to begin with: the right one, and one that differs from it by a fault.
export const PAIRS: [string, string][] = [
  ['The cats sleep.', 'The cats sleeps.'], ['She saw herself.', 'She saw himself.'], ['They have eaten all of it.', 'They have ate all of it.'],
  ['The boy who likes the dogs is happy.', 'The boy who likes the dogs are happy.'], ['这本书很好看。', '这头书很好看。'],
]
