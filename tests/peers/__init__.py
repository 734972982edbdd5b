"""Real servers that others wrote, started on loopback for the tests: nothing here is a mock of them.

Every peer is a `Peer` (see `process.py`): a context manager around one subprocess on a free port of 127.0.0.1 that
dies with the tests. `fixtures.py` offers them to pytest, one of each per worker.
"""
