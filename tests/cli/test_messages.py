"""The messages on stderr."""

import os
from concurrent.futures import ThreadPoolExecutor

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages


def test_threads_write_whole_lines() -> None:
    """Several threads may write while stderr is full: each message is written once, as a line of its own."""
    threads, lines = 4, 500
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as pipe, ThreadPoolExecutor(threads) as pool:
        messages = Messages(Environment.of_process()._replace(stderr=writing), color="never")

        def write(thread: int) -> None:
            for line in range(lines):
                messages.report(f"{thread} {line} {'x' * 100}")

        done = [pool.submit(write, thread) for thread in range(threads)]
        written = [pipe.readline() for _ in range(threads * lines)]
        assert [each.result() for each in done] == [None] * threads
    os.close(writing)
    assert sorted(written) == sorted(f"lm: {t} {n} {'x' * 100}\n" for t in range(threads) for n in range(lines))
