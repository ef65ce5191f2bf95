"""A broker or a Redis of the stack: one that we started, or one that was named to us."""

from collections.abc import Callable

from streams.local.process import Child, StackError


class Server:
    """Where a server is, what it is, and, if we started it, the means to end it and bring it back."""

    def __init__(
        self,
        kind: str,
        address: Callable[[], str],
        *,
        await_healthy: Callable[[], str],
        child: Child | None = None,
        no_restart: str | None = None,
    ) -> None:
        """
        Args:
            address: where it is, asked after it is healthy.
            await_healthy: returns name and version after a round trip; raises StackError.
            child: our process, or None for a server that is not ours.
            no_restart: why it cannot come back at the same address with its data; None if it can.
        """
        self.kind = kind
        self.version = ""
        self._address = address
        self._await_healthy = await_healthy
        self._child = child
        self._no_restart = no_restart

    @property
    def address(self) -> str:
        return self._address()

    @property
    def ours(self) -> bool:
        return self._child is not None

    @property
    def pid(self) -> int:
        return self._owned().pid

    def alive(self) -> bool:
        """False if we started it and it has ended. Of a server that is not ours nothing is known: True."""
        return self._child is None or self._child.alive()

    def end(self) -> str:
        """How it ended, for people. Raises StackError for a server that is not ours."""
        return self._owned().end()

    def last_words(self) -> str:
        """The end of its log, set for the end of an error message; empty for a server that is not ours."""
        return "" if self._child is None else self._child.last_words()

    def start(self) -> None:
        """Returns once it has answered a round trip; on failure nothing of it is left running."""
        try:
            if self._child is not None:
                self._child.start()
            self.version = self._await_healthy()
        except BaseException:  # Ctrl-C too
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it if we started it."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """kill -9. Raises StackError for a server that is not ours."""
        self._owned().kill()

    def restart(self) -> None:
        """Starts it again, at the same address and with its data, ending it first where it runs."""
        child = self._owned()
        if self._no_restart is not None:
            raise StackError(self._no_restart)
        child.stop()
        self.start()

    def _owned(self) -> Child:
        if self._child is None:
            raise StackError(f"the {self.kind} server at {self.address} was not started by this stack")
        return self._child
