"""Two processes of one run, as a launcher starts them."""

import multiprocessing
import os
import socket
import sys


def run_two(rank, *arguments):
    """Run ``rank(*arguments, number)`` in both, then exit with the worse of their codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # Forked, so that the libraries are imported once.
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank, args=(*arguments, number)) for number in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in ranks))
