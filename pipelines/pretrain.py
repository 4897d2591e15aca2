#!/usr/bin/env -S python3 -P
"""Pre-train a ViT from scratch: pipelines/pretrain.py [--recipe NAME] [--run NAME] [--help]."""

from pipelines.training.command import main

if __name__ == "__main__":
    main("Pre-train a Vision Transformer from scratch.", "pretrain")
