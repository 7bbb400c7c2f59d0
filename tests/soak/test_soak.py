"""Hours of traffic: nothing grows, and no good scan loses an image. ``EDGE_SOAK_MINUTES`` (60) sets how long each test runs
after its warm-up.

Memory, threads and descriptors are those of a server process. What the allocator keeps in pieces makes resident memory go up
and down by a quarter while the memory in use stays the same; only its floor tells of a leak. So the least of the first half is
compared with the least of the second. A run of the full hour writes its result to ``docs/soak/``, to be committed; every run
prints it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import Client, attribute
from simulated import COILS, LINES, centre_out, header_of, opening, readouts_of, usual_kspace

from benchmarks.server import RunningServer, serving
from edge_runtime.demo.run import SCAN
from edge_runtime.hil import play
from edge_runtime.links.files import open_recording
from edge_runtime.links.mrd_messages import ImageMessage, Text
from edge_runtime.links.mrd_pack import pack_close, pack_readouts
from edge_runtime.profile import SOURCE_FOLDER
from edge_runtime.scan import Limit

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
HOUR = 60.0
MINUTES = float(os.environ.get("EDGE_SOAK_MINUTES") or HOUR)
WARM_UP_S = 120.0
"""Comes before that time: so long it takes until the allocator's pieces no longer add up."""

ROUNDS = 8
"""Times that the traffic pauses: memory is read while no client is connected."""

IDLE_TIMEOUT_S = 5.0
QUIET_S = 60.0
"""How long the server may take to come to rest when all clients have gone."""

MOST_GROWTH_MB = 32.0
"""By which the floor may rise where sessions come and go. Ten kB a connection are more within the hour."""

MOST_GROWTH_OF_A_SESSION_MB = 4.0
"""By which it may rise within one session, whose memory is steady. A kB a repetition is more within a few minutes."""

METHODS = {"edge": 2, "edge-classical": 2, "edge-all": 3}
DEMO_SLICES = 2


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    resident_mb: float
    threads: int
    descriptors: int

    @classmethod
    def of(cls, process_id: int) -> Footprint:
        process = Path(f"/proc/{process_id}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(
            int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(list((process / "fd").iterdir()))
        )

    def __str__(self) -> str:
        return f"{self.resident_mb:.0f} MB, {self.threads} threads, {self.descriptors} descriptors"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """``edge-runtime serve`` with the shipped profile, but less patience with clients that stall."""
    profile = tmp_path / "soak.toml"
    text = (SOURCE_FOLDER / "x86-cpu.toml").read_text(encoding="utf-8")
    profile.write_text(text.replace("idle_timeout_s = 60.0", f"idle_timeout_s = {IDLE_TIMEOUT_S}"), encoding="utf-8")
    assert str(IDLE_TIMEOUT_S) in profile.read_text(encoding="utf-8")
    images = tmp_path / "images"
    with serving("--profile", str(profile), "--out", str(images)) as running:
        stop = threading.Event()
        sweeper = threading.Thread(target=_sweep, args=(images, stop))
        sweeper.start()
        yield running
        stop.set()
        sweeper.join()


def _sweep(images: Path, stop: threading.Event) -> None:
    """Takes written images away: an hour of them would fill the disk."""
    while not stop.wait(10):
        old = time.time() - 60
        for path in [*images.glob("*/*/*.dcm"), *images.glob("*/report.json")]:
            if path.stat().st_mtime < old:
                path.unlink()
        for folder in images.glob("*"):
            if not any(path.is_file() for path in folder.rglob("*")) and folder.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)


def at_rest(server: RunningServer) -> Footprint:
    """The server's footprint once its sessions have ended: the least threads and descriptors that it comes down to."""
    seen = [Footprint.of(server.process_id)]
    deadline = time.monotonic() + QUIET_S
    while (time.monotonic() < deadline and len(seen) < 10) or len({(f.threads, f.descriptors) for f in seen[-8:]}) > 1:
        assert time.monotonic() < deadline + QUIET_S, f"the server does not come to rest: {seen[-1]}"
        time.sleep(1)
        seen.append(Footprint.of(server.process_id))
    return seen[-1]


def floors(seen: list[Footprint]) -> tuple[Footprint, Footprint]:
    """The least of each half, in order."""
    halves = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    first, second = (
        Footprint(min(f.resident_mb for f in half), min(f.threads for f in half), min(f.descriptors for f in half))
        for half in halves
    )
    return first, second


def assert_nothing_grew(first: Footprint, second: Footprint, most_growth_mb: float) -> None:
    assert second.threads <= first.threads, f"{first} became {second}"
    assert second.descriptors <= first.descriptors, f"{first} became {second}"
    assert second.resident_mb <= first.resident_mb + most_growth_mb, f"{first} became {second}"


def keep_result(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the result; that of a full run goes to ``docs/soak/<date>.md`` too."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("edge-runtime", "onnxruntime", "numpy"))
    made_by = f"{versions}, commit {commit.stdout.strip() or 'unknown'}, Python {platform.python_version()}"
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    line = f"- {today}, {MINUTES:g} min, {platform.machine()}: {text} ({made_by})"
    with capsys.disabled():
        print(f"\n{line}")
    if MINUTES >= HOUR:
        path = ROOT / "docs" / "soak" / f"{today}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


# ------------------------------------------------------------------------------------------------------ mixed traffic


class Traffic:
    """Clients of every kind, in threads, against one server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream = SCAN.read_bytes()
        self._recording = open_recording(SCAN)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self, seconds: float, seed: int) -> None:
        """Good and bad clients until the time is over; returns when the last has hung up."""
        stop = time.monotonic() + seconds
        kinds: list[list[Callable[[random.Random], None]]] = [
            [self.good],
            [self.good],
            [self.vanishes, self.sends_garbage],
            [self.stalls, self.sends_garbage, self.vanishes],
        ]
        threads = [
            threading.Thread(target=self._loop, args=(kind, random.Random(f"{seed} {number}"), stop))
            for number, kind in enumerate(kinds)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _loop(self, kinds: list[Callable[[random.Random], None]], rng: random.Random, stop: float) -> None:
        while time.monotonic() < stop:
            kind = rng.choice(kinds)
            try:
                kind(rng)
            except Exception as error:  # it is a test's: shown at its end, not lost with a thread
                self.faults.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            self.counts[kind.__name__] += 1

    def good(self, rng: random.Random) -> None:
        """A whole scan, of which every image must come."""
        config = rng.choice(list(METHODS))
        pace = rng.choice([None, 2.0, 20.0])
        result = play(self._recording, "127.0.0.1", self._port, config=config, repetition_time_ms=pace)
        finals = [image for image in result.images if attribute(image.message, "EdgeCompleteness") == "final"]
        got = {(int(image.message.header["slice"]), attribute(image.message, "EdgeMethod")) for image in finals}
        bad = [text.text for text in result.texts if text.text.startswith(("error:", "no image:"))]
        if len(finals) != DEMO_SLICES * METHODS[config] or len(got) != len(finals) or bad:
            self.faults.append(f"{config}: {len(finals)} final images, {sorted(got)}; {bad}")

    def vanishes(self, rng: random.Random) -> None:
        """A part of a scan, then the plug is pulled."""
        with Client(self._port) as client:
            client.send(self._stream[: rng.randrange(len(self._stream))])
            time.sleep(rng.uniform(0, 0.5))
            client.vanish()

    def stalls(self, rng: random.Random) -> None:
        """A part of a scan, then silence; the server ends it."""
        with Client(self._port) as client:
            client.send(self._stream[: rng.randrange(len(self._stream) - 1)])
            replies = client.replies()
            if not replies.closed or "nothing was received" not in replies.text:
                self.faults.append(f"a stalled client was told {replies.text!r}")

    def sends_garbage(self, rng: random.Random) -> None:
        """Noise in place of messages, or a scan with bytes changed."""
        if rng.random() < 0.3:
            data = rng.randbytes(rng.randrange(1, 1 << 16))
        else:
            changed = bytearray(self._stream)
            for _ in range(rng.choice([1, 10, 1000])):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            data = bytes(changed)
        with Client(self._port) as client, contextlib.suppress(OSError):
            client.send(data)
            client.half_close()
            client.replies()


def test_mixed_traffic(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    traffic = Traffic(server.port)
    traffic.run(WARM_UP_S, seed=0)
    seen = []
    for number in range(ROUNDS):
        traffic.run(MINUTES * 60 / ROUNDS, seed=1 + number)
        seen.append(at_rest(server))
    first, second = floors(seen)
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(traffic.counts.items()))
    peak = max(footprint.resident_mb for footprint in seen)
    keep_result(f"mixed traffic ({counts}): at rest {first}; later {second}; never more than {peak:.0f} MB", capsys)
    assert not traffic.faults, "\n".join(traffic.faults[:20])
    assert traffic.counts["good"] > MINUTES
    assert_nothing_grew(first, second, MOST_GROWTH_MB)


# ------------------------------------------------------------------------------------------------------- endless scan

MOST_REPETITIONS = 65535
"""What the counter of a readout can say."""


def test_an_endless_scan(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One connection, one repetition after the other: what is kept of each must not add up to anything."""
    batch = readouts_of(usual_kspace(), centre_out())
    images: Counter[str] = Counter()
    texts: list[str] = []
    sent = 0
    seen: list[Footprint] = []
    with Client(server.port) as client:
        receiver = threading.Thread(target=_count, args=(client, images, texts))
        receiver.start()
        client.send(opening(header_of(limits={"repetition": Limit(0, MOST_REPETITIONS, 0)}), "edge"))
        due = time.monotonic() + WARM_UP_S
        end = due + MINUTES * 60
        while sent <= MOST_REPETITIONS and time.monotonic() < end:
            batch.header["repetition"] = sent
            client.send(pack_readouts(batch))
            sent += 1
            if time.monotonic() > due:
                due += 1
                seen.append(Footprint.of(server.process_id))
        client.send(pack_close())
        receiver.join()
    assert len(seen) > 10, f"all {sent} repetitions were sent before the warm-up ended: they are too small"
    first, second = floors(seen)
    keep_result(
        f"endless scan of {sent} repetitions ({COILS} coils, {LINES} lines): {first}; later {second}; the last {seen[-1]}",
        capsys,
    )
    assert not [text for text in texts if text.startswith(("error:", "no image:"))]
    assert images == Counter({"learned": sent, "classical": sent})
    assert_nothing_grew(first, second, MOST_GROWTH_OF_A_SESSION_MB)


def _count(client: Client, images: Counter[str], texts: list[str]) -> None:
    """Counts final images by method until the server closes."""
    while (message := client.receive()) is not None:
        if isinstance(message, ImageMessage) and attribute(message, "EdgeCompleteness") == "final":
            images[attribute(message, "EdgeMethod")] += 1
        elif isinstance(message, Text):
            texts.append(message.text)
