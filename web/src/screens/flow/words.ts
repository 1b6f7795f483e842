// Words of the screen of flow, in both languages.
import type { Language } from '../../state/words'
import type { Way } from './ways'

const en = {
  exported: 'Flow needs the model, and this file has only its numbers: open the text with `klieg serve` to follow it.',
  waiting: 'The model is not here yet; the flow is computed as soon as it is.',
  title: (token: string) => `What reaches “${token}” through all layers`,
  help: 'Maps show where heads look. The first row is what the prediction depends on: each token hidden from all others, in every head. Beside every other row stands how well it agrees.',
  to: 'Flow to', toHelp: 'choose the token that is flowed to',
  rested: 'Without what rests on the first token',
  compute: 'Compute the flow', stop: 'Stop',
  hidden: (done: number, all: number) => `${done} of ${all} tokens hidden`, following: 'following attention through the layers',
  long: (n: number) => `This text has ${n} tokens, so each of them is hidden once: that takes a while.`,
  token: 'Token', way: 'Way', agreement: 'rank correlation', undefined: 'not defined',
  hiding: 'Hiding', hidingHelp: 'bits by which the prediction changes',
  ways: { 'raw': 'Raw', 'rollout': 'Rollout', 'max-flow': 'Max-flow', 'value': 'Value' } satisfies Record<Way, string>,
  corrected: 'corrected',
  wayHelp: {
    'raw': 'mean of all maps of all layers', 'rollout': 'half of a token stays, half is the heads’ mean; product over the layers',
    'max-flow': 'the most that the same shares can carry', 'value': 'shares by the norm of what is really added',
  } satisfies Record<Way, string>,
  correctedHelp: 'divided by what even heads would bring in a decoder',
  largest: (token: string) => `largest: ${token}`, astray: 'not where hiding does most', same: 'where hiding does most',
  cell: (token: string, row: string, value: string) => `${token}, ${row}: ${value}`,
  bits: 'bits', strips: 'Shares of every token, way by way', rowMost: 'largest of the row',
  sentence: (token: string, bits: string, best: string, r: string, worst: string, least: string) =>
    `Hiding “${token}” changes the prediction most, by ${bits} bits. “${best}” agrees best with hiding (${r}), “${worst}” least (${least}).`,
  few: (token: string, bits: string) => `Hiding “${token}” changes the prediction most, by ${bits} bits; there are too few tokens to rank.`,
}

const zh: typeof en = {
  exported: '“流”需要模型，而这个文件里只有数值：请用 `klieg serve` 打开这段文字。',
  waiting: '模型还没到；一到就计算。',
  title: (token) => `经过所有层之后，什么流到了“${token}”`,
  help: '地图只说头看向哪里；第一行才是预测真正依赖的：把每个词元从所有头里遮去。其余各行旁边写着与它有多一致。',
  to: '流到', toHelp: '选择流到哪个词元',
  rested: '不计落在首词上的份额',
  compute: '计算流向', stop: '停止',
  hidden: (done, all) => `已遮去 ${done} / ${all} 个词元`, following: '正在逐层追踪注意力',
  long: (n) => `这段文字有 ${n} 个词元，每个都要遮去一次，需要一些时间。`,
  token: '词元', way: '方法', agreement: '秩相关', undefined: '无定义',
  hiding: '遮去', hidingHelp: '预测因此改变多少比特',
  ways: { 'raw': '原始', 'rollout': 'rollout', 'max-flow': '最大流', 'value': '按值' },
  corrected: '已校正',
  wayHelp: {
    'raw': '所有层所有地图的平均', 'rollout': '一半留在原处，一半取各头平均；逐层相乘', 'max-flow': '同样的份额最多能流过多少',
    'value': '按真正加入的向量的范数',
  },
  correctedHelp: '除以解码器里均匀的头会带来的份额',
  largest: (token) => `最大：${token}`, astray: '与遮去影响最大者不同', same: '正是遮去影响最大者',
  cell: (token, row, value) => `${token}，${row}：${value}`,
  bits: '比特', strips: '每种方法下各词元的份额', rowMost: '本行最大',
  sentence: (token, bits, best, r, worst, least) => `遮去“${token}”使预测改变最多：${bits} 比特。与遮去最一致的是“${best}”（${r}），最不一致的是“${worst}”（${least}）。`,
  few: (token, bits) => `遮去“${token}”使预测改变最多：${bits} 比特；词元太少，排不出名次。`,
}

export const WORDS: Record<Language, typeof en> = { en, zh }
