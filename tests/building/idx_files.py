"""Writes tiny IDX files of images and labels."""

import gzip

import numpy as np


def idx_bytes(values):
    values = np.asarray(values, dtype=np.uint8)
    head = bytes([0, 0, 8, values.ndim])
    return head + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def write_images(folder, *, rows=40, side=4, classes=10, zipped=False, dot=False):
    """Write images whose pixels are brighter for a higher label, so that they can be learned."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(rows) % classes
    noise = np.random.default_rng(0).integers(0, 20, (rows, side, side))
    images = noise + 20 * labels[:, None, None]
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        name = f"train-{name}-ubyte"
        if dot:
            name = name.replace("-idx", ".idx")
        data = idx_bytes(values)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return images, labels
