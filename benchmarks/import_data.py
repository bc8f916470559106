"""Imports a large source and measures speed and memory: `python benchmarks/import_data.py --gb 2`.

The source is as CS:GO's: HDF5 files of 1,000 frames of 150 by 280 pixels, made of noise that moves. The import runs in
a process of its own, whose largest resident memory the system reports.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

FRAMES, SHAPE = 1000, (150, 280, 3)


def make(folder, gigabytes):
    files = max(1, round(gigabytes * 1e9 / (FRAMES * np.prod(SHAPE))))
    rng = np.random.default_rng(0)
    for number in range(files):
        picture = rng.integers(0, 256, SHAPE, dtype=np.uint8)
        with h5py.File(folder / f"hdf5_{number}.hdf5", "w") as file:
            for i in range(FRAMES):
                file[f"frame_{i}_x"] = np.roll(picture, i, 1)
                file[f"frame_{i}_y"] = rng.integers(0, 2, 51).astype(np.float64)
    return sum(path.stat().st_size for path in folder.iterdir())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--max-memory", default="400")
    parser.add_argument("options", nargs="*", help="more options of data import, after --")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        size = make(source, words.gb)
        command = [sys.executable, "-m", "diamond_gym", "data", "import", str(source), "--name", f"{folder}/store"]
        began = time.monotonic()
        subprocess.run([*command, "--max-memory", words.max_memory, *words.options], check=True)
        seconds, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        print(
            f"{size / 1e9:.2f} GB in {seconds:.0f} s, {size / 1e6 / seconds:.0f} MB/s ({cpu:.0f} s of processor time, "
            f"{size / 1e6 / cpu:.0f} MB/s); at most {used.ru_maxrss * 1024 / 1e6:.0f} MB of memory"
        )


if __name__ == "__main__":
    main()
