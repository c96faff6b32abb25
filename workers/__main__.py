"""`python -m workers`: the worker process."""

import gc
import os

# While all is loaded: it goes over a growing heap again and again, a fifth of the imports' time (measured).
gc.disable()

# Before anything loads Arrow, which reads it once: its own allocators keep pages for each thread that ever wrote a
# file, 45 MB after 20,000 documents (measured). https://arrow.apache.org/docs/cpp/env_vars.html
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from workers.process.main import main  # noqa: E402

gc.enable()

if __name__ == "__main__":
    main()
