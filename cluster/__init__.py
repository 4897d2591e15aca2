"""Run a recipe on a cluster: deployment settings, batch arithmetic, DeepSpeed engine.

It uses `ray.train` and `deepspeed`, and is independent of models, storage and MLflow.
"""
