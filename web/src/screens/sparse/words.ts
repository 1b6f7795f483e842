// Words of the screen of sparse attention, in both languages.
import type { Kind } from '../../parts/pattern'
import type { Language } from '../../state/words'

const en = {
  exported: 'Sparse attention is tried with the model, and this file has only its numbers: open the text with `klieg serve`.',
  waiting: 'The model is not here yet; the pattern is tried as soon as it is.',
  title: 'What sparse attention would lose',
  pattern: 'Pattern', kinds: { window: 'Window', block: 'Blocks', strided: 'Stride', top: 'Largest' } satisfies Record<Kind, string>,
  kindHelp: {
    window: (n: string) => `keys nearer than ${n}`, block: (n: string) => `keys in the same block of ${n}`,
    strided: (n: string) => `keys nearer than ${n}, and every ${n}th beyond`, top: (n: string) => `the ${n} largest weights of each row; known only when all are`,
  } satisfies Record<Kind, (n: string) => string>,
  size: 'Size', global: 'Global tokens', globalHelp: 'so many first tokens see all and are seen by all',
  noGlobal: 'the largest weights have no global tokens',
  compute: 'Try the pattern', stop: 'Stop', computing: 'computing', long: (n: number) => `This text has ${n} tokens: trying a pattern takes a while.`,
  map: 'What the open head gives up', mapHelp: 'crossed out: given up, in the colour of its weight',
  tooLong: 'This text is too long for a map here; the heads are known without it.',
  row: (token: string, lost: string) => `the row of “${token}” loses ${lost}`,
  fates: ['hidden by the model’s own mask', 'given up', 'kept'], cell: (query: string, key: string, weight: string, fate: string) => `query ${query}, key ${key}, weight ${weight}, ${fate}`,
  unseen: 'hidden',
  heads: 'What every head loses', headsHelp: 'share of a row’s weight, in the mean over its rows', lost: (share: string) => `loses ${share}`, notSaid: 'goes by position, so it says nothing of cross-attention',
  worst: (head: string, share: string, token: string, most: string) => `Head ${head}: ${share} in the mean, ${most} in the row of “${token}”.`,
  prediction: 'What it says under the pattern', after: (token: string) => `next after “${token}”`,
  token: 'Token', before: 'dense', later: 'sparse', points: 'points', rank: 'rank',
  divergence: 'divergence', kl: 'bits: KL(dense || sparse)', mean: (bits: string) => `${bits} bits in the mean over all tokens`,
  certificate: (bound: string, output: string) => `sparse pass exact: |row sum − 1| ≤ ${bound}, |A V − output| ≤ ${output}`,
  sentence: (kept: string, lost: string, head: string, most: string) => `It keeps ${kept} of the pairs and loses ${lost} of the weight; head ${head} loses most, ${most}.`,
  nothing: (kept: string) => `It keeps ${kept} of the pairs and loses nothing.`,
  beside: 'Beside usual patterns', besideHelp: 'click one to try it', compare: 'Compare', again: 'Again',
  columns: { pattern: 'pattern', kept: 'kept', lost: 'lost', worst: 'worst head', bits: 'bits', mean: 'mean bits', next: 'next' },
  dense: 'dense', head: (layer: number, head: number) => `${layer}.${head}`,
}

const zh: typeof en = {
  exported: '试稀疏注意力需要模型，而这个文件里只有数值：请用 `klieg serve` 打开这段文字。',
  waiting: '模型还没到；一到就试。',
  title: '稀疏注意力会失去什么',
  pattern: '模式', kinds: { window: '窗口', block: '分块', strided: '跨步', top: '最大' },
  kindHelp: {
    window: (n) => `只看距离小于 ${n} 的键`, block: (n) => `只看同一块（每块 ${n} 个）里的键`,
    strided: (n) => `看距离小于 ${n} 的键，更远处每隔 ${n} 个看一个`, top: (n) => `每行留下最大的 ${n} 个权重；全部算出才知道`,
  },
  size: '大小', global: '全局词元', globalHelp: '开头这几个词元看得到所有词元，也被所有词元看到',
  noGlobal: '“最大”没有全局词元',
  compute: '试这个模式', stop: '停止', computing: '正在计算', long: (n) => `这段文字有 ${n} 个词元，试一个模式需要一些时间。`,
  map: '打开的头舍弃了什么', mapHelp: '打叉的被舍弃，颜色是它的权重',
  tooLong: '这段文字太长，这里画不下地图；各头失去多少仍可算出。',
  row: (token, lost) => `“${token}”这一行失去 ${lost}`,
  fates: ['被模型自己的遮盖隐藏', '被舍弃', '保留'], cell: (query, key, weight, fate) => `查询 ${query}，键 ${key}，权重 ${weight}，${fate}`,
  unseen: '被遮盖',
  heads: '每个头失去多少', headsHelp: '一行权重中失去的份额，按行平均', lost: (share) => `失去 ${share}`, notSaid: '按位置取舍，不适用于交叉注意力',
  worst: (head, share, token, most) => `头 ${head}：平均失去 ${share}，“${token}”这一行失去 ${most}。`,
  prediction: '在这种模式下它说什么', after: (token) => `“${token}”之后的下一个词元`,
  token: '词元', before: '稠密', later: '稀疏', points: '百分点', rank: '名次',
  divergence: '散度', kl: '比特：KL(稠密 || 稀疏)', mean: (bits) => `对所有词元平均 ${bits} 比特`,
  certificate: (bound, output) => `稀疏计算同样精确：|行和 − 1| ≤ ${bound}，|A V − 输出| ≤ ${output}`,
  sentence: (kept, lost, head, most) => `保留 ${kept} 的词对，失去 ${lost} 的权重；失去最多的是头 ${head}：${most}。`,
  nothing: (kept) => `保留 ${kept} 的词对，什么也没失去。`,
  beside: '与常用模式比较', besideHelp: '点一个来试', compare: '比较', again: '重算',
  columns: { pattern: '模式', kept: '保留', lost: '失去', worst: '最差的头', bits: '比特', mean: '平均比特', next: '下一词' },
  dense: '稠密', head: (layer, head) => `${layer}.${head}`,
}

export const WORDS: Record<Language, typeof en> = { en, zh }
