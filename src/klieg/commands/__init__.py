"""The commands, one file for each noun: a few lines that call the package and show what it gives.

Files are written whole or not at all, and only after all that was asked for is made.
"""
