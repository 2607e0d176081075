"""`crossvit serve` of the checkout in the working directory, with a profile of its main thread.

`python profiled_service.py PROFILE OPTIONS...` measures from SIGUSR1 to the service's end, by the thread's processor
time. It writes what pstats reads to PROFILE, and all of the thread's seconds to PROFILE.seconds: the event loop, which
runs already when the profile begins, is not in the profile. It imports nothing of this checkout, so that it can profile
another one.
"""

import cProfile
import signal
import sys
import time
from pathlib import Path

profile = cProfile.Profile(time.thread_time)
began = 0.0


def begin(*_: object) -> None:
    global began
    began = time.thread_time()
    profile.enable()


def main() -> None:
    sys.path[0] = str(Path.cwd())
    output, *sys.argv[1:] = sys.argv[1:]
    signal.signal(signal.SIGUSR1, begin)
    from app.__main__ import main as crossvit

    try:
        crossvit()
    finally:
        profile.disable()
        Path(f"{output}.seconds").write_text(str(time.thread_time() - began))
        profile.dump_stats(output)


if __name__ == "__main__":
    main()
