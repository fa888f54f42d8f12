"""A paired study of losses on one data set, from the command line to a table with intervals.

To read it: `settings` (what is asked for), `losses` and `grids` (the rows, and the values that are tried of each),
`images` (which images tune and which judge), `network`, `training` (one training, and what makes it paired), `run` (one
run and its JSON), `tuning` (the choice), `budget` (what fits into the time), `workers` (several runs at once),
`records` (the folder of a study), `schedule` (from the plan to the last run), `progress`, `differences` and `interval`,
`report`, `pictures`, and `study` (all of it).
"""
