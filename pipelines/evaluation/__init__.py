"""What a network is worth: metrics over arrays, and `pipelines/evaluate.py`, which computes them.

answers         what a classifier said of each image
classification  accuracy, calibration, per class, several right labels (ReaL): over answers
fewshot         closed-form few-shot linear regression on frozen features
neighbours      k nearest neighbours on frozen features
probe           logistic regression on frozen features
real            reads the several right labels
"""
