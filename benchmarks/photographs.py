"""Photograph-like JPEGs in WebDataset tars: noise with the 1/f spectrum of natural images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

_PER_SHARD = 128


def photograph(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A colour JPEG of about 60 KB, quality 90: amplitude falls with frequency (Field, 1987)."""
    random = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / max(width, height)) ** 1.2  # [H, W/2 + 1]
    planes = []
    for share in (1.0, 0.3, 0.3):  # luminance varies more than colour
        phase = random.uniform(0, 2 * np.pi, amplitude.shape)
        plane = np.fft.irfft2(amplitude * np.exp(1j * phase), (height, width))
        planes.append(share * plane / plane.std())
    luminance, red, blue = planes
    rgb = np.stack([luminance + red, luminance - 0.5 * red - 0.2 * blue, luminance + blue], axis=-1)
    pixels = np.clip(128 + 48 * rgb, 0, 255).astype(np.uint8)  # [H, W, 3]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path, *, images: int) -> None:
    """`train-000000.tar` ... of 128 images each, of ten classes."""
    for number, start in enumerate(range(0, images, _PER_SHARD)):
        with TarWriter(str(folder / f"train-{number:06d}.tar"), mtime=0, encoder=False) as tar:
            for i in range(start, min(start + _PER_SHARD, images)):
                label = str(i % 10).encode()
                tar.write({"__key__": f"{i:06d}", "cls": label, "jpg": photograph(i)})
