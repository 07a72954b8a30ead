"""What a paper venue knows about each bot's symbol, as of the bot's newest commit; events by level.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paper_books",
        sa.Column("bot", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("cursor", sa.JSON(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bot", name="pk_paper_books"),
    )
    op.create_index("ix_system_events_level_id", "system_events", ["level", "id"])


def downgrade() -> None:
    op.drop_index("ix_system_events_level_id", "system_events")
    op.drop_table("paper_books")
