"""A second process at a medium: `media_process.py MODULE OPTIONS_JSON write_forever|read|race ARGUMENT`."""

import importlib
import json
import random
import sys

import blake3

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Kind, Label, object_name

LABEL = Label(grid=b"g" * 16, medium="m1", volume=b"v" * 16, created_ns=1)


def digest_of(data):
    return blake3.blake3(data).digest()


def write_forever(volume, seed):
    """Objects whose first 32 bytes are the digest of the rest; name and digest of each acknowledged one."""
    rng = random.Random(seed)
    for _ in range(10_000):
        rest = rng.randbytes(rng.randrange(300_000, 3_000_000))
        data = digest_of(rest) + rest
        name = object_name(Kind.CONTAINER, rng.randbytes(16), rng.randbytes(8))
        volume.put(name, [data[:100_000], data[100_000:]], digest_of(data), Deadline(30))
        print(name, digest_of(data).hex(), flush=True)


def race(volume, number):
    """Twenty names that another process writes too, each in an order of its own."""
    rng = random.Random(0)
    names = [object_name(Kind.CONTAINER, rng.randbytes(16), rng.randbytes(8)) for _ in range(20)]
    random.Random(number).shuffle(names)
    won = []
    for name in names:
        data = b"%d" % number * 3000
        try:
            volume.put(name, [data], digest_of(data), Deadline(30))
        except errors.Conflict:
            continue
        won.append(name)
    print(json.dumps(won))


def main():
    module, options, action, argument = sys.argv[1:]
    media_type = importlib.import_module(module).staddle_media()[0]
    medium = media_type.load()("m1", media_type.config_type(**json.loads(options)))
    volume = medium.open(LABEL, "write", 1, Deadline(30))
    if action == "write_forever":
        write_forever(volume, int(argument))
    elif action == "race":
        race(volume, int(argument))
    else:
        size = volume.stat(argument, Deadline(30)).size_bytes
        print(volume.get(argument, 0, size, Deadline(30)).hex())


if __name__ == "__main__":
    main()
