"""A shop or billing system that posts signed events to a vendor's intake, which runs as its own process."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

from lls.issuer.intake.settings import CUSTOMS
from tests.issuer.intake.sources import SECRETS, body_of, proof
from tests.journeys.firm import Firm
from tests.journeys.warm import Warm
from tests.journeys.world import START_SECONDS, STOP_SECONDS, free_port, until


class Storefront:
    """See the module. ``settings`` is the intake's TOML; every source's secret lies beside it."""

    def __init__(self, firm: Firm, settings: str) -> None:
        home, port = firm.site.vendor, free_port()
        (home / "intake.toml").write_text(settings)
        for source, secret in SECRETS.items():
            (home / f"{source}.secret").write_text(f"{secret}\n")
        self.url, self.said = f"http://127.0.0.1:{port}", firm.root / "intake.txt"
        words = ["lls-issuer", "--home", str(home), "serve", "--listen", f"127.0.0.1:{port}"]
        self.process = Warm(words, cwd=firm.desk, said=self.said)

    def wait(self) -> None:
        """Until it listens."""
        until(self._is_there, seconds=START_SECONDS, what="intake")

    def _is_there(self) -> bool:
        try:
            self.idle()
        except OSError:
            return False
        return True

    def idle(self) -> bool:
        """Whether nothing waits; what failed has failed the test."""
        with urllib.request.urlopen(f"{self.url}/v1/health", timeout=10) as answer:  # noqa: S310 - our own
            health = json.load(answer)
        assert 0 == health["failed"], self.said.read_text("utf-8")
        return bool(health["waiting"] == 0)

    def post(self, source: str, document: dict[str, Any], *, secret_of: str | None = None) -> tuple[int, list[str]]:
        """The answer's status, and what became of the events; they are processed when this returns."""
        body, media = body_of(source, document)
        signed = proof(secret_of or source, body, datetime.now(UTC))
        headers = {"Content-Type": media, CUSTOMS[source].header: signed}
        request = urllib.request.Request(f"{self.url}/v1/events/{source}", body, headers)  # noqa: S310 - our own
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                status, told = answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, []
        until(self.idle, seconds=START_SECONDS, what="processed")
        return status, [event["status"] for event in told["events"]]

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert 0 == self.process.wait(STOP_SECONDS), self.said.read_text("utf-8")
