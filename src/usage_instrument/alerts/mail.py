"""E-mail by SMTP, with STARTTLS by default."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Literal

from .delivery import TIMEOUT, DeliveryError
from .reports import Report, headline

Security = Literal["starttls", "tls", "none"]
PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}


@dataclass(frozen=True)
class Mail:
    """Sends plain text to fixed addresses."""

    name: str
    host: str
    port: int
    security: Security
    sender: str
    recipients: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def send(self, reports: Sequence[Report]) -> None:
        """Send one message. Raises DeliveryError."""
        try:
            with contextlib.closing(self._connected()) as server:
                if self.user is not None and self.password is not None:
                    server.login(self.user, self.password)
                server.send_message(self._message(reports), self.sender, self.recipients)
                with contextlib.suppress(smtplib.SMTPException, OSError):  # the message is accepted
                    server.quit()
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise self._error(f"refuses the recipients ({_listed(codes)})", min(codes) < 500) from None
        except smtplib.SMTPResponseException as error:
            raise self._error(f"answers with SMTP {error.smtp_code}", 400 <= error.smtp_code < 500) from None
        except smtplib.SMTPServerDisconnected:
            raise self._error("closed the connection", True) from None
        except smtplib.SMTPException as error:  # no STARTTLS, no AUTH
            raise self._error(f"lacks what the channel needs: {type(error).__name__}", False) from None
        except ssl.SSLCertVerificationError as error:
            raise self._error(f"has an untrusted certificate: {error.verify_message}", False) from None
        except OSError as error:
            raise self._error(f"cannot be reached: {error.strerror or type(error).__name__}", True) from None

    def _connected(self) -> smtplib.SMTP:
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT, context=context)
        server = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT)
        if self.security == "starttls":
            try:
                server.starttls(context=context)  # raises if the server does not offer it
            except BaseException:
                server.close()
                raise
        return server

    def _message(self, reports: Sequence[Report]) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[usage-instrument] {headline(reports)}"
        message["From"] = self.sender
        message["To"] = ", ".join(self.recipients)
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=self.sender.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"
        message.set_content("\n".join(each.text for each in reports) + "\n")
        return message

    def _error(self, problem: str, is_transient: bool) -> DeliveryError:
        return DeliveryError(f"{self.host}:{self.port} {problem}", is_transient=is_transient)


def _listed(codes: Sequence[int]) -> str:
    return ", ".join(f"SMTP {code}" for code in sorted(set(codes)))
