"""What a network is worth: metrics over arrays, and `pipelines/evaluate.py`, which computes them.

fewshot    closed-form few-shot linear regression on frozen features
"""
