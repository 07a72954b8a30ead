"""What larger positions of an instrument must keep.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instruments", sa.Column("margin_tiers", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("instruments", "margin_tiers")
