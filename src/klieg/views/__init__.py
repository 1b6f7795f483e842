"""Views: a Trace turned into something to look at.

Figures are data first (picture.py: cells, bars, links, text, rules, laid out by figures.py)
and are then lowered to a medium: text.py, svg.py, png.py, and from these terminal.py,
notebook.py and html.py. A view knows nothing of models; every number comes from the Trace.
"""
