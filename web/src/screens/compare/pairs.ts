// Pairs of sentences that have a word in common. A decoder reads from the left, so in the last pair the word has seen the same.
export const PAIRS = [
  { name: '苹果', a: '我吃了一个苹果', b: '苹果发布了新手机' },
  { name: 'bank', a: 'We sat down on the river bank', b: 'She put her money in the bank' },
  { name: 'The bank', a: 'The bank of the river', b: 'The bank lends money' },
]
