"""Run by Alembic: takes the connection of `store.upgrade`, or opens the database that AUTOTRADER_DATABASE_URL names."""

import os
from typing import Any

import sqlalchemy as sa
from alembic import context

from autotrader.store.database import resolve_url
from autotrader.store.tables import Base, DecimalText, ExactDecimal


def compare_type(_context: Any, _inspected: Any, _column: Any, inspected_type: Any, column_type: Any) -> bool | None:
    "SQLite reports our DECIMAL_TEXT as TEXT, which is no difference; everything else is Alembic's to judge."
    if isinstance(column_type, ExactDecimal | DecimalText) and isinstance(inspected_type, sa.TEXT):
        return False
    return None


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=compare_type,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,  # on SQLite too, since we begin its transactions ourselves
    )
    with context.begin_transaction():
        context.run_migrations()


given: sa.Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with sa.create_engine(resolve_url(os.environ["AUTOTRADER_DATABASE_URL"])).begin() as opened:
        run(opened)
