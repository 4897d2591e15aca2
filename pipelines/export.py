#!/usr/bin/env -S python3 -P
"""Export weights for other libraries: pipelines/export.py --to FORMAT --out DIR."""

from pipelines.exporting.command import main

if __name__ == "__main__":
    main("Export a stage's or a public checkpoint's weights for timm, transformers, ONNX or torch.")
