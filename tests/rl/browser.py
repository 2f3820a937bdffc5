"""A headless Chromium, driven over its DevTools socket."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_S, STEP_S = 40.0, 30.0


def find_browser():
    """Return the path of an installed Chromium; None where there is none."""
    named = os.environ.get("CHROMIUM")
    found = (shutil.which(name) for name in (*([named] if named else []), *NAMES))
    return next((path for path in found if path), None)


class Page:
    """One page of a browser of its own."""

    def __init__(self, program, folder: Path, *, size=(1480, 1500), dark=False):
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--no-first-run", "--disable-extensions", "--disable-background-networking"]
        words += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        words += [f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen(
            [program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._number, self.complaints, self._open = 0, [], ExitStack()
        self._open.callback(self._end)
        try:
            talk = connect(self._address(folder), max_size=None, open_timeout=START_S)
            self._socket = self._open.enter_context(talk)
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self.call("Emulation.setEmulatedMedia", features=[scheme])
        except BaseException:
            self.close()
            raise

    def call(self, method, **params):
        """Return what a DevTools method answers; note what the page complains of meanwhile."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=STEP_S))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def open(self, url):
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def do(self, script):
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script):
        """Wait until an expression is true in the page, and return its value."""
        ends = time.monotonic() + STEP_S
        while time.monotonic() < ends:
            value = self.do(script)
            if value:
                return value
            time.sleep(0.05)
        shown = self.do("document.body.innerText.slice(0, 600)")
        raise AssertionError(f"never true: {script}; {self.complaints[:3]}; the page shows {shown}")

    def click(self, selector):
        """Press the left button of the mouse in the middle of an element."""
        self.do(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y = self.do(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        where = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def screenshot(self, path: Path):
        """Write what the page looks like as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        """End the browser."""
        self._open.close()

    def _end(self):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _address(self, folder):
        ends, file = time.monotonic() + START_S, folder / "DevToolsActivePort"
        while time.monotonic() < ends:
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) == 2:
                pages = httpx.get(f"http://127.0.0.1:{lines[0]}/json", timeout=START_S).json()
                return next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
            assert self._process.poll() is None, "the browser ended at once"
            time.sleep(0.05)
        raise AssertionError(f"the browser did not start within {START_S:.0f} s")

    def _note(self, message):
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", "")
            self.complaints.append(f"{details['text']} {thrown}")
        entry = params.get("entry", {})
        if message.get("method") == "Log.entryAdded" and entry.get("source") != "network":
            self.complaints.append(entry["text"])
