"""What a network is worth: metrics over arrays, and `pipelines/evaluate.py`, which computes them.

answers         what a classifier said of each image
classification  accuracy, calibration, per class, several right labels (ReaL): over answers
mistakes        which class is taken for which, the worst answers: tables; figures draws them
fewshot         closed-form few-shot linear regression on frozen features
neighbours      k nearest neighbours on frozen features
probe           logistic regression on frozen features
real            reads the several right labels
protocol        what is measured how: the value that names an evaluation
source          the weights: a stage's or a public checkpoint's
planning        the command line, and every check that needs no cluster
extract         images -> answers and features, computed by Ray
measuring       the evaluators of a plan, one after the other
run             what the entry script calls
while_training  accuracy and loss on the validation split, by the workers that train
"""
