"""MLflow: the one import of it, the run of a stage, and a spool for when it does not answer."""
