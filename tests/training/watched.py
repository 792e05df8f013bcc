"""One rank of test_training_watch.py: a watch beside a main thread that does nothing, on a machine of its own.

    python watched.py RANK PORT SILENCE [deaf]
"""

import os
import signal
import sys
import time

import torch.distributed as dist

from bikd_fast.training import watch

rank, port, silence = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
watch.QUIET = 2.0
where = watch.identity()
watch.identity = lambda: {**where, "machine": f"machine {rank}"}
if rank == 0:
    server = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
told, failed = [], []
signal.signal(signal.SIGTERM, lambda *_: told.append(0))
signal.signal(signal.SIGUSR1, lambda *_: failed.append(0))  # as an error that is this rank's own
if "deaf" in sys.argv:  # as a main thread that waits in a collective
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
guard = watch.Watch(rank, 2, "127.0.0.1", port, silence)
guard.start()
while not guard.lines.open.get(1 - rank):
    time.sleep(0.1)
print("ready", flush=True)
while not told and not failed:
    time.sleep(0.1)
if failed:
    guard.first_to_fail("no picture can be read")
    os._exit(2)
guard.stopping = True
guard.part()
os._exit(watch.STOPPED)
