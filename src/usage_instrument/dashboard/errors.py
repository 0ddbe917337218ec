"""The one exception that becomes a page."""

from __future__ import annotations


class PageError(Exception):
    """A page cannot be shown; the visitor reads why."""

    def __init__(self, status: int, title: str, *advice: str, links: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        """The problem, in a few words."""
        self.advice = advice
        """The fix, a sentence each; text between backticks is a command."""
        self.links = links
        """Other pages: text and relative address."""

    @classmethod
    def of(cls, error: Exception, status: int = 400, title: str = "This address is wrong") -> PageError:
        """The page that shows an error of ours as a sentence."""
        return cls(status, title, sentence(str(error)))


def sentence(message: str) -> str:
    """A message as a sentence."""
    return f"{message[:1].upper()}{message[1:]}."
