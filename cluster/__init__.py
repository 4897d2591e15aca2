"""Where and how wide a recipe runs: deployment settings, batch arithmetic, DeepSpeed engine.

Knows `ray.train` and `deepspeed`; knows nothing of models, storage or MLflow.
"""
