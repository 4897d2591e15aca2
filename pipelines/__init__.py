"""The stages: recipes, the training loop, tracking, and the scripts that a user runs.

The only package that knows all the others.
"""

import pipelines.cli.ray_environment  # noqa: F401  # before any module here imports Ray
