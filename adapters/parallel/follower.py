"""A rank above 0, as a process that rank 0 starts: ``python -m chatplan.adapters.parallel.follower`` with its job."""

from __future__ import annotations

import pickle
import sys

from chatplan.adapters.parallel.loading import follow_and_leave, load_shard
from chatplan.adapters.parallel.processes import connect, open_store

__all__ = ["main"]


def main() -> None:
    """Read the job, a pickled dict, from standard input; load the shard; and follow until rank 0 lets go."""
    job = pickle.load(sys.stdin.buffer)
    number, size, seconds = job["number"], job["size"], job["seconds"]
    store = open_store(job["port"])
    store.set(f"chatplan/started/{number}", "")
    connect(size, number, store)
    model = load_shard(job["name"], size, seconds, job["arguments"])
    store.set(f"chatplan/loaded/{number}", "")
    follow_and_leave(model)


if __name__ == "__main__":
    main()
