"""Sessions of a stored vault: who works with it, and who may write an item."""

from collections.abc import Callable

import sqlalchemy as sa

from transfer.errors import SessionEnded, VaultUnavailable
from transfer.vault import checks, schema
from transfer.vault.base import SESSION_LIFE
from transfer.vault.catalog import Catalog, next_number, put
from transfer.vault.schema import Counter, SessionRow, SessionState, checked

MAX_OPEN = 1024  # sessions of one domain
_SIGN_OF_LIFE = 60 * 10**9  # ns; noting one costs a sync of the catalog
_column = schema.sessions.c


class Sessions:
    def __init__(self, catalog: Catalog, clock: Callable[[], int]) -> None:
        self._catalog, self._clock = catalog, clock

    def open(
        self, connection: sa.Connection, domain: bytes, item: bytes | None, owner: bytes,
        resume: int | None,
    ) -> int:  # fmt: skip
        """The number of a new session, or of *resume*; raises ItemBusy, VaultUnavailable."""
        now, others = self._clock(), 0
        for row in self._all_open(connection):
            if now - row.last_seen > SESSION_LIFE:
                put(connection, schema.sessions, [row._replace(state=SessionState.EXPIRED)])
            elif item is not None and (row.domain, row.item) == (domain, item):
                checks.may_replace(row.number, row.owner, row.opened, owner)
                if row.number == resume:
                    put(connection, schema.sessions, [row._replace(last_seen=now)])
                    return row.number
                put(connection, schema.sessions, [row._replace(state=SessionState.FENCED)])
            elif row.domain == domain:
                others += 1
        if others >= MAX_OPEN:  # each costs whoever opens one
            raise VaultUnavailable(
                f"{others} sessions of this domain are open, and more are not taken",
                "end some of its runs; one that is silent for 7 days has ended",
            )
        number = next_number(connection, Counter.SESSIONS)
        session = SessionRow(number, domain, item, owner, SessionState.OPEN, now, now)
        put(connection, schema.sessions, [session])
        return number

    def _all_open(self, connection: sa.Connection) -> list[SessionRow]:
        """One whose row is damaged is not among them: it has ended, for its client as well."""
        query = sa.select(schema.sessions).where(_column.state == int(SessionState.OPEN))
        rows = list(checked(SessionRow, connection.execute(query)))
        return [row for row in rows if row.state == SessionState.OPEN]  # the index has no check

    def find(self, connection: sa.Connection, number: int) -> SessionRow | None:
        query = sa.select(schema.sessions).where(_column.number == number)
        return next(checked(SessionRow, connection.execute(query)), None)

    def alive(self, connection: sa.Connection, number: int) -> SessionRow:
        """The session, noted as alive; raises SessionEnded for one that is not open."""
        session, now = self.find(connection, number), self._clock()
        if session is None:
            raise SessionEnded(f"the vault does not know session {number}", "run again")
        if session.state == SessionState.OPEN and now - session.last_seen > SESSION_LIFE:
            session = session._replace(state=SessionState.EXPIRED)
        if session.state != SessionState.OPEN:
            how = SessionState(session.state).name.lower()
            raise SessionEnded(f"session {number} was {how}", "run again")
        if now - session.last_seen > _SIGN_OF_LIFE:
            put(connection, schema.sessions, [session._replace(last_seen=now)])
        return session

    def get(self, number: int) -> SessionRow:
        with self._catalog.begin() as connection:
            return self.alive(connection, number)

    def end(self, connection: sa.Connection, number: int, state: SessionState) -> None:
        """Ending an ended one changes nothing."""
        session = self.find(connection, number)
        if session is not None and session.state == SessionState.OPEN:
            put(connection, schema.sessions, [session._replace(state=state)])
