"""Upscales slowly in a process of its own, to be stopped or killed: python slow.py IN OUT SECONDS_PER_BATCH"""

import logging
import signal
import sys
import time

from fastgan.runtime.spec import Spec
from fastgan.upscale.video import pipeline

# As in a terminal: shells start background processes with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Slow:
    spec = Spec("image", scale=2, range=(0.0, 1.0))

    def pixels(self, frames):
        print("batch of", len(frames), flush=True)
        time.sleep(float(sys.argv[3]))
        return frames.repeat(2, 1).repeat(2, 2)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    pipeline.SEGMENT_SECONDS = 0.4
    try:
        result = pipeline.upscale_video(
            Slow(), sys.argv[1], sys.argv[2], batch=5, progress=lambda done, total: print("done", done, flush=True)
        )
    except KeyboardInterrupt:
        sys.exit(130)
    print("resumed", result["resumed"])
