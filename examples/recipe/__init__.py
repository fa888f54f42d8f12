"""The paper's experiment on one data set with one backbone, from the command line to a JSON.

To read it: `main` and `run` (the whole on one screen), `options`, `settings` and `protocol` (what is done), `devices`,
`data`, `augmentation`, `network`, `pretraining` (one step), `training` and `stopping` (Lightning's loop), `evaluation`,
`results`, and `trained` (the network afterwards).
"""
