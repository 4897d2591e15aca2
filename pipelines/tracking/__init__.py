"""MLflow: its one import, the run of a stage, and a spool for times when it does not answer."""
