"""What `benchmarks/gpu.py` measures, a module for each step: its cells, and what measures one of them.

Read `cells` and `worker` first (how cells are measured in processes of their own), then `ceilings`, `errors`,
`launches`, `losses`, `blocks`, `tiles`, `recipe_speed`, and `trainings`, which has no cells: its processes are the
recipe's.
"""
