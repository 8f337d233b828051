"""What no backup tool can do without, as commands that are measured like the tools.

python floors.py zstd SOURCE OUT    all contents below SOURCE as one stream through zstd -1 with two threads
python floors.py stat SOURCE        an lstat of everything below SOURCE
"""

import os
import sys

LEVEL, THREADS = 1, 2
READ_BYTES = 4 << 20


def files(source):
    """Every file below a directory, or the file itself."""
    if os.path.isfile(source):
        yield source
    for directory, below, names in os.walk(source):
        below.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                yield path


def compress(source, out):
    import zstandard

    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS)
    with open(out, "wb") as target, compressor.stream_writer(target, write_size=READ_BYTES) as stream:
        for path in files(source):
            with open(path, "rb", buffering=0) as handle:
                while data := handle.read(READ_BYTES):
                    stream.write(data)


def look(source):
    """Returns how many entries there are."""
    with os.scandir(source) as entries:
        seen = 0
        for entry in entries:
            entry.stat(follow_symlinks=False)
            seen += 1
            if entry.is_dir(follow_symlinks=False):
                seen += look(entry.path)
    return seen


def main(words):
    if words[0] == "zstd":
        compress(*words[1:])
    elif words[0] == "stat":
        print(look(words[1]))
    else:
        import zstandard

        version = ".".join(map(str, zstandard.ZSTD_VERSION))
        print(f"zstd {version} -{LEVEL} with {THREADS} threads, one stream")


if __name__ == "__main__":
    main(sys.argv[1:])
