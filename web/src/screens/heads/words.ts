// Words of the screen of heads that no other screen has.
import type { Language } from '../../state/words'

const en = {
  share: (share: string) => `shows ${share} of each row`,
  shareName: 'Share of each row that is drawn',
  only: 'Click a token to keep only its lines; click it again for all.',
  own: 'this head',
  byStatistic: 'Heads by this number, highest first',
  byLayer: 'Heads by layer',
}

const zh: typeof en = {
  share: (share) => `画出每行的 ${share}`,
  shareName: '每行画出多少',
  only: '点选一词，只留它的线；再点一次则全部显示。',
  own: '这个头',
  byStatistic: '按此数从高到低排列',
  byLayer: '按层排列',
}

export const WORDS: Record<Language, typeof en> = { en, zh }
