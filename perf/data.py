"""Data to back up, the same at every call: what is measured twice must be the same twice."""

import random
from pathlib import Path

MIB = 2**20


def image(path: Path, size: int) -> Path:
    """A disk of *size* bytes, every MiB of it different: half noise, half text."""
    generator = random.Random(size)
    text = b"".join(b"line %d of a log file\n" % number for number in range(60_000))
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, MIB):
            noise = generator.randbytes(min(MIB // 2, size - start))
            at = generator.randrange(len(text) - MIB // 2)
            file.write(noise + text[at : at + min(MIB // 2, size - start - len(noise))])
    return path


def incompressible(path: Path, size: int) -> Path:
    """*size* bytes of noise."""
    generator = random.Random(-size)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, MIB):
            file.write(generator.randbytes(min(MIB, size - start)))
    return path


def many_files(top: Path, count: int) -> Path:
    """*count* files like those of a system: 100 to a directory, most of them small, some noise."""
    generator = random.Random(count)
    words = [generator.randbytes(generator.randrange(2, 9)).hex().encode() for _ in range(2000)]
    for number in range(count):
        place = top / f"{number // 5000:03}" / f"{number // 100 % 50:02}"
        if number % 100 == 0:
            place.mkdir(parents=True)
        size = int(generator.paretovariate(0.9) * 700) % 200_000
        raw = generator.randbytes(size) if number % 4 == 0 else _text(generator, words, size)
        (place / f"file-{number:06}.txt").write_bytes(raw)
    return top


def _text(generator: random.Random, words: list[bytes], size: int) -> bytes:
    start = generator.randrange(len(words) - 100)
    text = b" ".join(words[start : start + 100])
    return (b"%d " % start + text * (size // len(text) + 1))[:size]
