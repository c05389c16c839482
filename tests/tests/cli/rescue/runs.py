"""Runs the rescue program many times in one process: starting Python for each would take most of the time.

    python3 rescue_runs.py backy-rescue.py <JOBS >RESULTS

A job is a line of JSON with the arguments of one run, or with a frame to unpack; a result is one with what came of it.
"""
import contextlib
import importlib.util
import io
import json
import signal
import sys
import traceback

SECONDS = 30


class TooLong(BaseException):
    """Nothing that the program catches."""


def on_alarm(signum, frame):
    raise TooLong


def run(program, job):
    if "frame" in job:
        content = program.unzstd({0: bytes.fromhex(job["frame"])}, job["block_bytes"])[0]
        return None if content is program.LOST else content.hex()
    return program.main(job["arguments"])


def main():
    spec = importlib.util.spec_from_file_location("rescue", sys.argv[1])
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    signal.signal(signal.SIGALRM, on_alarm)
    for line in sys.stdin:
        said, crash, value = io.StringIO(), None, None
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                value = run(program, json.loads(line))
        except TooLong:
            crash = f"did not end within {SECONDS} seconds"
        except BaseException:
            crash = traceback.format_exc()
        finally:
            signal.alarm(0)
        print(json.dumps({"value": value, "said": said.getvalue(), "crash": crash}), flush=True)


if __name__ == "__main__":
    main()
