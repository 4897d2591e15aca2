"""Evaluate networks: metrics over arrays, and `pipelines/evaluate.py`, which computes them.

answers         what a classifier answered for each image
classification  accuracy, calibration, per class, several right labels (ReaL): over answers
mistakes        tables of confusions and of the worst answers; figures draws them
fewshot         closed-form few-shot linear regression on frozen features
neighbours      k nearest neighbours on frozen features
probe           logistic regression on frozen features
real_labels     reads files with several right labels per image
protocol        what is measured and how: the value that names an evaluation
evaluation      options, and every check that needs no cluster
extract         images -> answers and features, computed by Ray
evaluators      run the evaluators one after the other
command         what the entry script calls
"""
