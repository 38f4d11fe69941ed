"""Who is connected to whom."""

import os

from infra.heap import share_heap

share_heap()  # before a library that is imported later starts a thread, which would get a heap of its own
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow asks while it is imported; see infra/heap.py
