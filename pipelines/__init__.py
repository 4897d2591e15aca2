"""The stages: recipes, the training loop, tracking, and the scripts that a user runs.

The only package that knows all the others.
"""
