"""Serves as `workers.extract.child` does, with a parser that does what the document says."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

from workers.extract import Extracted, Kind
from workers.extract.child import main

documents = itertools.count()


def read(key: str, data: bytes, kind: Kind, most: int) -> Extracted:
    del key, kind, most
    return Extracted(does(data), 7, 3)


def does(data: bytes) -> str:
    earlier = next(documents)
    word, _, argument = data.removeprefix(b"%PDF-").decode().partition(" ")
    match word:
        case "sleep":
            time.sleep(float(argument))
        case "spin":
            while True:
                pass
        case "allocate":
            return "x" * int(argument)
        case "abort":
            os.write(2, b"memory allocation of 99 bytes failed\n")
            os.abort()
        case "first" if earlier:
            os._exit(4)
        case "exit":
            os._exit(int(argument))
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise ZeroDivisionError(argument)
        case "recurse":
            return does(data)
        case "print":
            print('{"size": 5}\nwrong', flush=True)
            os.write(1, b'{"size": 5}\nwrong')
        case "environment":
            return repr(dict(os.environ))
        case "pid":
            return str(os.getpid())
    return f"did {word}"


if __name__ == "__main__":
    main(sys.argv[1:], read)
