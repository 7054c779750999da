"""Photos of strangers, decoded in processes that may die without taking the page along.

Each has a limit on its memory and on the time that a photo may take, opens no format but those of
`blip2.processing`, and gives back nothing but pixels.
"""

import atexit
import functools
import json
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from PIL import Image

from blip2.processing import MAX_PIXELS, PhotoError, open_photo

PROCESSES = 2
MEMORY = 2 << 30  # bytes of addresses: the largest permitted photo with two copies of it
PATIENCE = 30  # seconds that a photo may take
LONGEST = 2048  # pixels; no image encoder reads as many
ENOUGH = 1024  # pixels of the shorter side; a JPEG is decoded at less than its size down to these


class Decoders:
    """Processes that open photos.

    Parameters
    ----------
    count : int
        Processes, each started when it is first needed.
    memory : int
        Bytes of addresses that each may have. Not enforced on Windows and macOS.
    patience : float
        Seconds that a photo may take.
    """

    def __init__(
        self, count: int = PROCESSES, memory: int = MEMORY, patience: float = PATIENCE
    ) -> None:
        self._memory, self._patience = memory, patience
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._count = count

    def open(self, path: Path) -> Image.Image:
        """Open a photo.

        Parameters
        ----------
        path : Path
            The file.

        Returns
        -------
        PIL.Image.Image
            As `blip2.processing.open_photo` returns it, at most `LONGEST` pixels on its longer
            side; ``info["format"]`` is what the file was.

        Raises
        ------
        PhotoError
            If it cannot be used, takes too long or needs too much memory.
        """
        process = self._idle.get()
        try:
            if process is None or not process.alive:
                process = _Process(self._memory)
            return process.open(path, self._patience)
        finally:
            self._idle.put(process)

    def start(self) -> None:
        """Start the processes now, so that the first photo need not wait for one."""
        idle = [self._idle.get() for _ in range(self._count)]
        for process in idle:
            self._idle.put(process or _Process(self._memory))

    def close(self) -> None:
        """End the processes once they are idle; the next photo starts new ones."""
        for process in [self._idle.get() for _ in range(self._count)]:
            if process is not None:
                process.close()
            self._idle.put(None)


@functools.cache
def decoders() -> Decoders:
    """Return the processes that the page shares; they end with it."""
    shared = Decoders()
    atexit.register(shared.close)
    return shared


class _Process:
    """One process: a line of JSON in, a line of JSON and pixels out."""

    def __init__(self, memory: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "demo.decoder", str(memory)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def open(self, path: Path, patience: float) -> Image.Image:
        # A timer and not a timeout of the pipe, which Windows does not have.
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(patience, give_up)
        timer.start()
        try:
            answer, pixels = self._ask({"path": str(path.absolute())})
        except BaseException:  # the next photo must not get what is left in the pipe
            self.close()
            raise
        finally:
            timer.cancel()
        if answer is None or late.is_set():
            self.close()
            if late.is_set():
                raise PhotoError("The given photo takes too long to open; choose another one.")
            raise PhotoError("The given photo cannot be opened safely; choose another one.")
        if "error" in answer:
            raise PhotoError(answer["error"])
        photo = Image.frombytes("RGB", tuple(answer["size"]), pixels)
        photo.info["format"] = answer["format"]
        return photo

    def _ask(self, request: dict) -> tuple[dict | None, bytes]:
        """Send a request; no answer means that the process has died over it."""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line.endswith(b"\n"):
                return None, b""
            answer = json.loads(line)
            count = answer.get("bytes", 0)
            pixels = self._process.stdout.read(count)
        except BrokenPipeError:
            return None, b""
        return (answer, pixels) if len(pixels) == count else (None, b"")

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        try:
            self._process.stdin.close()
        except BrokenPipeError:  # with a request that it never read
            return


def serve(memory: int) -> None:
    """Answer requests on standard input until it ends: the life of one process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the page
    if sys.platform not in ("win32", "darwin"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout.buffer
    for line in sys.stdin.buffer:
        answer, pixels = read_photo(Path(json.loads(line)["path"]))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.write(pixels)
        answers.flush()


def read_photo(path: Path) -> tuple[dict, bytes]:
    """Open one photo.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict, bytes
        ``size`` (width, height), ``format`` and ``bytes`` with the pixels, row by row; or an
        ``error``. Errors say "the given photo", not where it lies.
    """
    try:
        with path.open("rb") as file:
            photo = open_photo(file, ENOUGH, MAX_PIXELS)
        photo.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        pixels = photo.tobytes()
    except FileNotFoundError:
        return {"error": "The photo is no longer here; upload it again."}, b""
    except PhotoError as error:
        return {"error": str(error)}, b""
    except MemoryError:
        return {"error": "The given photo needs too much memory; make it smaller first."}, b""
    return {"size": photo.size, "format": photo.info["format"], "bytes": len(pixels)}, pixels


if __name__ == "__main__":
    serve(int(sys.argv[1]))
