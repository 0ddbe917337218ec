"""Why a page cannot be shown, and what to do."""

from __future__ import annotations


class Problem(Exception):  # noqa: N818 - to the visitor it is one, whoever made the mistake
    """A page cannot be shown; the visitor is told why."""

    def __init__(self, status: int, title: str, *advice: str, links: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        """What is the matter, in a few words."""
        self.advice = advice
        """What to do about it, a sentence each; text between backticks is a command."""
        self.links = links
        """Where else to look: text and relative address."""
