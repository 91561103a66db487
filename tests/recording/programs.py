"""Applications that record, as processes of their own: run, forked, killed.

    python -m tests.recording.programs NAME SETTINGS

SETTINGS is JSON: what a recorder needs, and what the program needs beside it. Each program prints
the id of an event, on a line of its own, when `record` has returned for it.
"""

import asyncio
import ctypes
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from typing import Any

from ledger_client import Recorder

Settings = dict[str, Any]


def open_recorder(settings: Settings) -> Recorder:
    return Recorder(
        settings["url"],
        settings["token"],
        spool=settings["spool"],
        policy=settings["policy"],
        actor=("process", os.getpid()),
        tenant=settings["tenant"],
        linger_s=0.005,
        **settings.get("options", {}),
    )


def say(text: str | None) -> None:
    """One line, in one write: several processes share the pipe."""
    os.write(1, f"{text}\n".encode())


def endless(settings: Settings) -> None:
    """Record from several threads until killed."""
    recorder = open_recorder(settings)

    def work() -> None:
        while True:
            say(recorder.record("a.b", reason="x" * 500))

    for _ in range(3):
        threading.Thread(target=work).start()


def some(settings: Settings) -> None:
    """Record some events and end, without a word to the recorder."""
    recorder = open_recorder(settings)
    for _ in range(settings["count"]):
        say(recorder.record("a.b"))


def prefork(settings: Settings) -> None:
    """A master with a recorder forks workers, as gunicorn does with --preload, and then records."""
    recorder = open_recorder(settings)
    if settings["master_records_first"]:
        say(recorder.record("master.started"))
    # Forks while another thread is in the middle of recording must not hang a worker either.
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            say(recorder.record("a.b"))
            time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(2 * settings["master_records_first"])]
    for thread in threads:
        thread.start()
    workers = []
    for _ in range(settings["workers"]):
        pid = os.fork()
        if pid == 0:
            for _ in range(settings["count"]):
                say(recorder.record("worker.served"))
            sys.exit()
        workers.append(pid)
    for pid in workers:
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    say(recorder.record("master.stopped"))


def prefork_in_c(settings: Settings) -> None:
    """As uWSGI forks its workers: Python calls no hook. `PyDLL` keeps the interpreter's lock."""
    recorder = open_recorder(settings)
    say(recorder.record("master.started"))
    # Such a child of a process whose other threads run may wait for their lock for ever.
    assert recorder.flush(60)
    workers = []
    for _ in range(settings["workers"]):
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            for _ in range(settings["count"]):
                say(recorder.record("worker.served"))
            assert recorder.close(60)
            os._exit(0)
        workers.append(pid)
    for pid in workers:
        assert os.waitpid(pid, 0)[1] == 0
    say(recorder.record("master.stopped"))


def fork_and_die(settings: Settings) -> None:
    """The parent is killed; its child lives on, and must not keep what the parent left."""
    recorder = open_recorder(settings)
    say(recorder.record("parent.recorded"))
    pid = os.fork()
    if pid == 0:
        say("ready")
        sys.stdin.read()
        return
    os.kill(os.getpid(), signal.SIGKILL)


def child_of_multiprocessing(settings: Settings, recorder: Recorder | None) -> None:
    recorder = recorder or open_recorder(settings)
    for _ in range(settings["count"]):
        say(recorder.record("child.worked"))


def multi(settings: Settings) -> None:
    """Children of multiprocessing: forked ones use the recorder of their parent."""
    recorder = open_recorder(settings)
    method = settings["method"]
    context: Any = multiprocessing.get_context(method)
    children = [
        context.Process(
            target=child_of_multiprocessing,
            args=(settings, recorder if method == "fork" else None),
        )
        for _ in range(settings["workers"])
    ]
    for child in children:
        child.start()
    say(recorder.record("parent.worked"))
    for child in children:
        child.join()
        assert child.exitcode == 0


def exit_hard(settings: Settings) -> None:
    """End without any exit function."""
    recorder = open_recorder(settings)
    for _ in range(settings["count"]):
        say(recorder.record("a.b"))
    os._exit(0)


def at_the_very_end(settings: Settings) -> None:
    """Record from an exit function that runs after the recorder's own."""
    import atexit

    recorders: list[Recorder] = []
    atexit.register(lambda: say(recorders[0].record("app.stopped")))
    recorders.append(open_recorder(settings))
    say(recorders[0].record("app.started"))


def in_a_signal_handler(settings: Settings) -> None:
    """Record in a signal handler that interrupts recording, wherever it is."""
    recorder = open_recorder(settings)
    rng = random.Random(settings["count"])

    def handle(*_: object) -> None:
        say(recorder.record("signal.came"))
        # Set anew at the end of each, so that handlers don't pile up.
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.001))

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    for _ in range(settings["count"]):
        say(recorder.record("a.b"))
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def in_an_event_loop(settings: Settings) -> None:
    """Record from many tasks of an event loop, by the ordinary recorder."""
    recorder = open_recorder(settings)

    async def work() -> None:
        for _ in range(settings["count"]):
            say(recorder.record("task.worked"))
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(settings["workers"])))

    asyncio.run(main())


PROGRAMS = {
    program.__name__: program
    for program in (
        endless,
        some,
        prefork,
        prefork_in_c,
        fork_and_die,
        multi,
        exit_hard,
        at_the_very_end,
        in_a_signal_handler,
        in_an_event_loop,
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](json.loads(sys.argv[2]))
