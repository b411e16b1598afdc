"""Stands for `posttrain_verl.evaluate.engine` where no model is needed: answers sums from the question itself.

FAKE_LOG gets a line for each question asked; with FAKE_DIES=N the engine ends with an error and code 3 after N answers, and with
FAKE_SECONDS=S each answer takes S seconds.
"""

import json
import os
import re
import sys
import threading
import time


def main() -> int:
    work = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    left = int(os.environ.get("FAKE_DIES", "1000000"))
    until = time.monotonic() + (1e9 if work["seconds"] is None else work["seconds"])
    for name, messages, samples in work["asked"]:
        if time.monotonic() > until:
            break
        with open(os.environ["FAKE_LOG"], "a") as log:
            log.write(json.dumps([os.getpid(), name, samples]) + "\n")
        one, two = map(int, re.findall(r"\d+", messages[-1]["content"]))
        for sample in samples:
            if left == 0:
                print("ValueError: no room for the weights", file=sys.stderr, flush=True)
                return 3
            left -= 1
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
            total = one + two + (sample % 2)  # every second sample is wrong
            text = f"{one}+{two}={total}\n#### {total}"
            print(json.dumps({"id": name, "sample": sample, "text": text, "tokens": 7, "truncated": False}), flush=True)
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
