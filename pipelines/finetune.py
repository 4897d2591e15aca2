#!/usr/bin/env -S python3 -P
"""Fine-tune on a new task with a zero-initialised head: pipelines/finetune.py [--run NAME]."""

from pipelines.training.command import main

if __name__ == "__main__":
    main("Fine-tune a pre-trained Vision Transformer on a new task.", "finetune")
