"""Which language is read at the terminal: the command's own --lang, or what the system speaks.

It is read off the process, with nothing that takes time to load, so that Ctrl-C knows it at any moment.
"""

from __future__ import annotations

import os
import sys

LANGUAGES = ["en", "zh"]


def asked() -> str:
    """The language of the command, also where its options were not read, as where it is misspelt, or has no --lang: its last
    --lang, if that is a language, else what the system speaks."""
    words = sys.argv[1:]
    given = [word.partition("=")[2] or after for word, after in zip(words, [*words[1:], ""], strict=False)
             if word.partition("=")[0] == "--lang"]
    return given[-1] if given and given[-1] in LANGUAGES else spoken()


def spoken() -> str:
    """The language of the system."""
    named = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "zh" if named.startswith("zh") else "en"
