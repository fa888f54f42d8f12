"""The tables of the paper, made of many recipes: what `reproduce.py` runs and reports.

`paper` (their numbers), `cells` (runs that a table asks for), `running` (many of them), `children` (a run in a process
of its own), `kept` (results on disk), `estimate`, `report`, `plots`; `solo_*`: the same by solo-learn.
"""
