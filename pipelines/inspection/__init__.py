"""Pictures of what a network learned to look at: figures 6, 7 and 11 of arXiv:2010.11929.

samples      the images, a fixed choice of a split
subject      the weights: a stage's, or a public checkpoint's
measure      the numbers: filters, similarities, distances, rollout
figures      numbers -> PNG
inspection   all of them together; called after a training stage as well
command      `pipelines/inspect_weights.py`
"""
