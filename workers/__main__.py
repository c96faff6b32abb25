"""`python -m workers`: the worker process."""

import os

# Before anything loads Arrow, which reads it once: its own allocators keep pages for each thread that ever wrote a
# file, 45 MB after 20,000 documents (measured). https://arrow.apache.org/docs/cpp/env_vars.html
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from workers.main import main

if __name__ == "__main__":
    main()
