"""Fonts for pixels: for every run of characters a font of this machine that has them all.

The first choice is KLIEG_FONT, then the families named below, then every other font there is.
A character that no font has is written as its code point; a box that could mean anything is
never drawn. Without a font for Chinese, Japanese or Korean the message says what to install.
"""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from klieg.errors import KliegError
from klieg.views.glyphs import column

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/System/Library/Fonts",
           "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts")
FIRST = ("inter", "notosans-", "segoeui", "dejavusans.", "dejavusans-bold.", "liberationsans-", "helvetica", "arial.",
         "arialbd.", "notosanscjk-", "notosanssc", "notosanscjksc", "sourcehansans", "pingfang", "hiragino", "msyh",
         "wqy")
LAST = ("italic", "oblique", "mono", "serif", "light", "thin", "condensed")
SIZE = 24           # at which coverage is looked at
NOTHING = "\U0010fffe"   # a code point that no font may have: what it looks like is a font's empty box


@lru_cache(1)
def found() -> tuple[Path, ...]:
    """Every font file of this machine, the best first."""
    own = os.environ.get("KLIEG_FONT")
    if own and not Path(own).is_file():
        raise KliegError(f"KLIEG_FONT names {own}, which is not a file; give the path of a .ttf, .otf or .ttc font.")
    files = {*_asked(), *(p for folder in FOLDERS for p in Path(folder).expanduser().rglob("*.[to]t[fc]"))}
    ranked = sorted(files, key=lambda p: (_rank(p.name.lower()), str(p)))
    return ((Path(own),) if own else ()) + tuple(ranked)


def _asked() -> list[Path]:
    """What fontconfig knows of, where there is one."""
    try:
        listed = subprocess.run(["fc-list", "--format", "%{file}\n"], capture_output=True, text=True, timeout=10,
                                check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(line) for line in listed.stdout.splitlines() if line.endswith((".ttf", ".otf", ".ttc"))]


def _rank(name: str) -> int:
    place = next((n for n, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))
    return place + (100 if any(style in name for style in LAST) else 0)


@lru_cache(256)
def font(path: Path, size: float) -> ImageFont.FreeTypeFont | None:
    """A font at a size; None if it cannot be drawn at any size, as those of coloured bitmaps."""
    try:
        return ImageFont.truetype(str(path), size)
    except OSError:
        return None


@lru_cache(8192)
def has(path: Path, character: str) -> bool:
    """Whether a font draws a character, and not its empty box."""
    face = font(path, SIZE)
    if face is None:
        return False
    if character.isspace() or column(character) == 0:
        return True
    drawn = _look(face, character)
    return any(drawn[1]) and drawn != _look(face, NOTHING)


def _look(face: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = face.getmask(character)
    return mask.size, bytes(mask)


@lru_cache(4096)
def choose(character: str, bold: bool) -> Path | None:
    """The best font that has a character; None if there is none. KliegError if it is a wide one."""
    ranked = sorted(found(), key=lambda p: bold != ("bold" in p.name.lower())) if bold else \
        [p for p in found() if "bold" not in p.name.lower()]
    best = next((path for path in ranked if has(path, character)), None)
    if best is None and column(character) == 2 and not 0x1F000 <= ord(character) <= 0x1FFFF:
        raise KliegError(f"no font of this machine has {character!r}, so the PNG cannot be drawn; install a CJK font "
                         "(fonts-noto-cjk on Debian, google-noto-sans-cjk-fonts on Fedora), or set KLIEG_FONT to one.")
    return best


def runs(text: str, size: float, bold: bool = False) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in runs of one font each; a character without a font is spelled as its code point."""
    parts: list[tuple[str, Path]] = []
    for character in text:
        if column(character) == 0 and parts:
            parts[-1] = (parts[-1][0] + character, parts[-1][1])
            continue
        path = choose(character, bold)
        if path is None:
            character, path = f"⟨{ord(character):X}⟩", _any()
        if parts and parts[-1][1] == path:
            parts[-1] = (parts[-1][0] + character, path)
        else:
            parts.append((character, path))
    return [(run, font(path, size)) for run, path in parts]


def _any() -> Path:
    path = choose("⟨", False) or choose("A", False)
    if path is None:
        raise KliegError("this machine has no font to draw a PNG with; install one (Debian, Ubuntu: fonts-dejavu-core) "
                         "or set KLIEG_FONT to a .ttf file.")
    return path
