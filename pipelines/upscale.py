#!/usr/bin/env -S python3 -P
"""Carry pre-trained weights to a higher resolution: pipelines/upscale.py [--run NAME] [--help]."""

from pipelines.training.command import main

if __name__ == "__main__":
    main("Resize the position table of pre-trained weights and train on.", "upscale")
