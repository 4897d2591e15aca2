"""Run a network over many images on Ray: what evaluation and prediction share.

network  the model of a worker, with arithmetic that is the same on every worker
workers  how many workers, what each holds, where images are decoded
"""
