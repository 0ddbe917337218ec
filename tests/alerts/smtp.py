"""A server for e-mail: the few commands that smtplib sends, with STARTTLS by a certificate of its own."""

from __future__ import annotations

import base64
import socketserver
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return cert, key


class MailServer(socketserver.ThreadingTCPServer):
    """Accepts each message, unless `refusal` answers MAIL FROM."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("localhost", 0), _Session)
        self.context = context
        self.messages: list[str] = []
        self.logins: list[tuple[str, str]] = []
        self.recipients: list[str] = []
        self.refusal: str | None = None
        self.farewell = "221 bye"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, *_: object) -> None:
        """A client that refuses the certificate goes away."""


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        try:
            self.talk()
        finally:
            self.request.close()  # that of TLS, too

    def talk(self) -> None:
        is_safe = False
        self.say("220 localhost")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "EHLO":
                extras = ["250-AUTH PLAIN"] if is_safe else ["250-STARTTLS"] if self.server.context else []
                self.say("250-localhost", *extras, "250 8BITMIME")
            elif word == "STARTTLS" and self.server.context:
                self.say("220 go")
                self.request: Any = self.server.context.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")
                is_safe = True
            elif word == "AUTH":
                _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
                self.server.logins.append((user, password))
                self.say("235 welcome" if password != "wrong" else f"535 not with {password}")
            elif word == "MAIL":
                self.say(self.server.refusal or "250 ok")
            elif word == "RCPT":
                self.server.recipients.append(line.split(":", 1)[1].strip("<>"))
                self.say("250 ok")
            elif word == "DATA":
                self.say("354 go on")
                lines = []
                while (text := self.rfile.readline().decode()) != ".\r\n":
                    lines.append(text)
                self.server.messages.append("".join(lines))
                self.say("250 taken")
            elif word == "QUIT":
                self.say(self.server.farewell)
                return
            else:
                self.say("250 ok")

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())
        self.wfile.flush()
