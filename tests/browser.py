"""A real browser for the tests: Debian's chromium, headless, spoken to over two pipes (DevTools protocol)."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INSTALL = "there is no chromium here: apt-get install -y --no-install-recommends chromium"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--no-first-run", "--remote-debugging-pipe")  # fmt: skip
PATIENCE = 60  # seconds; a busy machine


def program() -> str:
    """The browser's path. Raises where there is none: a page that nobody looked at is no result."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise FileNotFoundError(INSTALL)
    return found


class Browser:
    """One tab."""

    def __init__(self, read: int, write: int):
        self._read, self._write = read, write
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def show(self, page: Path, width: int, height: int, *, phone: bool) -> None:
        """Open a page in a window of this size and wait until it is drawn."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone, deviceScaleFactor=1)
        self._ask("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.events.clear()
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self._until("Page.loadEventFired")
        drawn = (
            "document.querySelectorAll('.chart').length === document.querySelectorAll('.chart .main-svg').length / 3"
        )
        self.value(f"new Promise(done => {{ const look = () => {drawn} ? done(1) : setTimeout(look, 20); look(); }})")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path) -> bytes:
        """The whole page as PNG."""
        taken = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path.read_bytes()

    @property
    def complaints(self) -> list[str]:
        """Everything the console said in warning or error, uncaught exceptions, and all that was fetched."""
        found = []
        for event in self.events:
            said = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    found.append(str(said["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                    found.append(str(said["args"]))
                case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                    found.append(said["entry"]["text"])
                case "Network.requestWillBeSent" if not said["request"]["url"].startswith(("file:", "data:", "blob:")):
                    found.append(f"fetched {said['request']['url']}")
        return found

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _until(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self._next()

    def _next(self) -> dict[str, Any]:
        """The next message; events are kept."""
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"the browser has not answered in {PATIENCE} s"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has gone"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile folder of its own; gone afterwards."""
    own_read, its_write = os.pipe()
    its_read, own_write = os.pipe()

    def pipes() -> None:
        """The protocol's places: 3 to read from, 4 to write to."""
        high = [os.dup2(its_read, 63), os.dup2(its_write, 64)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    process = subprocess.Popen(
        [program(), *FLAGS, f"--user-data-dir={profile}"], close_fds=False, preexec_fn=pipes,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(profile), "XDG_CONFIG_HOME": str(profile)},
    )  # fmt: skip
    os.close(its_read)
    os.close(its_write)
    try:
        yield Browser(own_read, own_write)
    finally:
        os.close(own_write)
        process.terminate()
        process.wait(timeout=PATIENCE)
        os.close(own_read)
