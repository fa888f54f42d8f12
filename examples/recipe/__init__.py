"""The paper's experiment on one data set with one backbone, from the command line to a JSON.

To read it: `run` (the whole on one screen), `settings` and `protocol` (what is done), `data`, `augmentation`,
`network`, `pretraining` (one step), `training` and `stopping` (Lightning's loop), `evaluation`, `results`.
"""
