"""The tables of the paper, made of many recipes: what `reproduce.py` runs and reports.

`paper` (their numbers), `cells` (runs that a table asks for), `children` (a run in a process of its own), `kept`
(results on disk), `estimate`, `report`, `plots`; `solo_host`, `solo_images`, `solo_logs`: the same by solo-learn.
"""
