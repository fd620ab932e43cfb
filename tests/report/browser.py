"""A headless Chromium, driven by the DevTools protocol through a pipe: real keys and pointers, and console messages."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time


class Browser:
    """Opens pages. problems: errors and warnings of the console, and exceptions."""

    def __init__(self, program):
        self._profile = tempfile.mkdtemp()
        (commands, self._out), (self._in, answers) = os.pipe(), os.pipe()
        # It reads commands from descriptor 3 and writes answers to 4.
        shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                   "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={self._profile}"]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, *options], pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._left, self._number, self._session, self.problems = b"", 0, None, []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def close(self):
        self._session = None
        self._ask("Browser.close")
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path, width=1200, height=900, scale=1):
        """Show a file in a window of that many CSS pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=width < 600)  # fmt: skip
        self._ask("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + 60
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            assert time.monotonic() < deadline, f"{path} does not load"
            time.sleep(0.05)

    def run(self, expression):
        """The value of a JavaScript expression."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key, code):
        """A key, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def click(self, x, y):
        """A click with the pointer, at CSS pixels of the window."""
        for kind, buttons in (("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def center(self, selector):
        """The middle of an element, scrolled to."""
        self.run(f"(window.found = document.querySelector({json.dumps(selector)})).scrollIntoView({{block: 'center'}})")
        box = self.run("(({x, y, width, height}) => [x, y, width, height])(window.found.getBoundingClientRect())")
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def screenshot(self, clip=None):
        """PNG bytes of the window, or of clip (x, y, width, height) of the page."""
        options = {}
        if clip:
            x, y, width, height = clip
            options = {"clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1},
                       "captureBeyondViewport": True}  # fmt: skip
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png", **options)["data"])

    def _ask(self, method, **options):
        self._number += 1
        message = {"id": self._number, "method": method, "params": options}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _next(self):
        while b"\0" not in self._left:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        kind, what = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.problems.append(what["exceptionDetails"])
        elif kind == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.problems.append([one.get("value") for one in what["args"]])
        elif kind == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.problems.append(what["entry"]["text"])


def find():
    """The path of a Chromium, which root installs by apt-get where there is none; or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    if not any(map(shutil.which, names)) and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, env=environment, capture_output=True, timeout=900, check=False)
    return next(filter(None, map(shutil.which, names)), None)
