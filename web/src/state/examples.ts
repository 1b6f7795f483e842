// Texts to begin with; the long one fills most of the bundled model's context.
export interface Example { text: string; name?: 'apple' | 'story' }

const STORY = `There was once a small lamp in the window of a house by the sea. Every night an old man lit the lamp, and every night the boats saw it and came home.

One day the old man was ill. He could not get up, and the lamp stayed dark. "Who will light the lamp?" he asked. His cat sat by the bed and looked at him. She was a good cat, but she could not light a lamp.

The cat went out into the rain. She ran down the road to the little red house where Anna lived. Anna was seven years old. She opened the door and said, "Why are you so wet, little cat?" The cat turned around, ran a few steps, and looked back. Anna took her coat and followed her.

When Anna came to the house by the sea, she saw the dark window and the old man in his bed. "The boats are still out," he said. "They need the lamp." Anna was afraid of the dark, but she took the matches and climbed up the stairs. The wind blew out the first match. It blew out the second match too. Then the cat jumped into the window and sat where the wind came in, and the third match burned.

The lamp was bright again. Far out on the water a boat turned around, and then another one. In the morning all the boats were home. The men brought fish for the cat and bread for Anna, and they made soup for the old man until he was well.

From that day on Anna lit the lamp together with the old man, and the cat sat in the window, where the wind came in.`

export const EXAMPLES: Example[] = [
  { text: 'I love you' }, { text: '小沈阳江西演唱会邀请了，' }, { text: 'The animal didn’t cross the street because it was too tired' },
  { text: '我吃了一个苹果', name: 'apple' }, { text: 'The cat chased the mouse' }, { text: STORY, name: 'story' },
]
