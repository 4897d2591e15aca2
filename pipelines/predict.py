#!/usr/bin/env -S python3 -P
"""Classify images: pipelines/predict.py --run NAME FILE|FOLDER|TAR|s3://PREFIX|DATASET ..."""

from pipelines.prediction.command import main

if __name__ == "__main__":
    main("Classify images with a stage's or a public checkpoint's weights.")
