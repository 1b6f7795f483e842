// Words of the screen of atlases, in both languages.
import type { Language } from '../../state/words'

const en = {
  exported: 'Atlases lie with the server, and this file has none: open them with `klieg serve`.',
  waiting: 'Asking which atlases there are.',
  none: 'The server was started without an atlas. Make one over your own texts, or over a treebank, then open it:',
  title: 'What every head does over a corpus', treebankTitle: 'How often every head looks along the links of grammar', atlas: 'Atlas', score: 'Score', kind: 'Attention of',
  counts: (model: string, tokens: string, texts: string) => `${model} · ${tokens} tokens in ${texts} texts`, more: 'the corpus goes on',
  sentences: (model: string, n: string) => `${model} · ${n} sentences of a treebank; figures of every second one`, words: 'Words',
  gold: (head: string, share: string, offset: string, baseline: string, p: string) => `${head} did best on the other sentences, where heads were chosen, and is right in ${share} here; always looking ${offset}: ${baseline} (sign test that the head is no better: p = ${p}).`,
  offset: (n: number) => `${Math.abs(n)} ${Math.abs(n) === 1 ? 'word' : 'words'} ${n < 0 ? 'back' : 'ahead'}`,
  units: { share: 'share', nats: 'nats', tokens: 'tokens' } as Record<string, string>,
  grid: 'Heads by this score', missing: 'no text had it',
  opens: 'Click a head to open it.', closed: (model: string) => `To open a head, start the server with its model: --model ${model}`,
  columns: { head: 'Head', mean: 'Mean', chance: 'Chance', texts: 'Texts' }, interval: '95 % interval',
  table: 'All heads', beyond: 'bold: the whole interval lies beyond chance', axis: 'line: interval; dot: mean; mark: chance',
  head: (layer: string, head: string) => `Layer ${layer} · Head ${head}`,
  highest: (head: string, mean: string, chance: string, unit: string) => `${head} has the highest mean, ${mean} ${unit}; chance would give ${chance}.`,
}

const zh: typeof en = {
  exported: '图谱在服务器那里，而这个文件里没有：请用 `klieg serve` 打开。',
  waiting: '正在询问有哪些图谱。',
  none: '启动服务器时没有给它图谱。请用自己的文本或依存树库做一份，再打开：',
  title: '每个头在一批语料上做什么', treebankTitle: '每个头有多常沿着语法关系看', atlas: '图谱', score: '指标', kind: '哪一种注意力',
  counts: (model, tokens, texts) => `${model} · ${texts} 段文本，共 ${tokens} 个词元`, more: '语料还没有读完',
  sentences: (model, n) => `${model} · 依存树库 ${n} 句；数字取自其中隔句抽出的一半`, words: '词数',
  gold: (head, share, offset, baseline, p) => `${head}是在另一半句子上选出的最好的头，在这里的正确率为 ${share}；若总是${offset}，则为 ${baseline}（符号检验，原假设为这个头不比它好：p = ${p}）。`,
  offset: (n) => `看${n < 0 ? '前' : '后'}面第 ${Math.abs(n)} 个词`,
  units: { share: '份额', nats: '奈特', tokens: '词元' },
  grid: '各头的这一指标', missing: '没有文本有此指标',
  opens: '点一个头就打开它。', closed: (model) => `要打开头，请在启动服务器时给出它的模型 ${model}`,
  columns: { head: '头', mean: '均值', chance: '随机基线', texts: '文本数' }, interval: '95% 置信区间',
  table: '全部头', beyond: '粗体：整个区间都在随机基线之外', axis: '线是区间，点是均值，竖记是随机基线',
  head: (layer, head) => `第 ${layer} 层 · 第 ${head} 头`,
  highest: (head, mean, chance, unit) => `${head}的均值最高：${mean} ${unit}；随机基线为 ${chance}。`,
}

export const WORDS: Record<Language, typeof en> = { en, zh }
