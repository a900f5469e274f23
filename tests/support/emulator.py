"""Google's Pub/Sub emulator, found on this machine and run as its users run it.

`python -m tests.support.emulator --port 8085` runs it in the foreground.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.support.process import free_port

JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
IMAGE = "gcr.io/google.com/cloudsdktool/google-cloud-cli:emulators"


class NoEmulator(Exception):
    """There is none here; the text says where it was looked for."""


def _sdk_jar() -> Path | None:
    roots = [Path(root) for root in [os.environ.get("CLOUDSDK_ROOT_DIR")] if root]
    if gcloud := shutil.which("gcloud"):
        roots.append(Path(gcloud).resolve().parent.parent)
    return next((jar for root in roots for jar in sorted(root.glob(JAR), reverse=True)), None)


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


def command(port: int, heap: str = "512m") -> list[str]:
    """How to start an emulator here. Raises NoEmulator.

    The Java program itself, not `gcloud beta emulators`: ending that wrapper leaves an orphan behind.
    """
    jar, java = _sdk_jar(), shutil.which("java")
    if jar is not None and java is not None:
        main = "com.google.cloud.pubsub.testing.v1.Main"
        return [java, f"-Xmx{heap}", "-cp", str(jar), main, "--host=127.0.0.1", f"--port={port}"]
    if _docker_answers():
        start = ["gcloud", "beta", "emulators", "pubsub", "start", f"--host-port=0.0.0.0:{port}"]
        return ["docker", "run", "--rm", "--init", "-p", f"127.0.0.1:{port}:{port}", IMAGE, *start]
    raise NoEmulator(
        "no Pub/Sub emulator: PUBSUB_EMULATOR_HOST is not set, the Google Cloud SDK's is not installed "
        "(gcloud components install pubsub-emulator, and Java), and no Docker engine answers"
    )


class Emulator:
    """An emulator of one's own. `start` waits until it answers. `heap`: the memory that Java may take for it."""

    def __init__(self, port: int | None = None, heap: str = "512m") -> None:
        self._heap = heap
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object

    def start(self) -> "Emulator":
        """Start it (again, after `kill`: on the same port, with nothing in it)."""
        self._process = subprocess.Popen(command(self.port, self._heap), stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise RuntimeError(f"the emulator did not start:\n{self._log.read().decode(errors='replace')}")
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/", timeout=1) as answer:
                return bool(answer.read().startswith(b"Ok"))
        except OSError:
            return False

    def pause(self) -> None:
        """Stop it in its tracks."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, and all that it knows."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def main() -> None:
    """Run an emulator until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Run the Pub/Sub emulator until Ctrl-C.")
    parser.add_argument("--port", type=int, default=8085)
    port = parser.parse_args().port
    try:
        arguments = command(port)
    except NoEmulator as reason:
        sys.exit(str(reason))
    sys.stderr.write(f"In other terminals: export PUBSUB_EMULATOR_HOST=localhost:{port} GOOGLE_CLOUD_PROJECT=demo\n")
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main()
