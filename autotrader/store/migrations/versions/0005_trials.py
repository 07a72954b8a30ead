"""The trial ledger: studies, their trials, and running sums over each market.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        sa.Column("strategy", sa.String(), nullable=False),
        sa.Column("venue", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("timeframe", sa.String(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
        sa.Column("setting", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("trials", sa.BigInteger(), nullable=False),
        sa.Column("best_sharpe", sa.Double(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("identity", name="uq_studies_identity"),
    )
    op.create_index("ix_studies_venue_symbol_strategy", "studies", ["venue", "symbol", "strategy"])
    op.create_table(
        "trials",
        sa.Column("study", ROW_ID, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("sharpe", sa.Double(), nullable=True),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("return_frac", sa.Double(), nullable=True),
        sa.Column("max_drawdown", sa.Double(), nullable=True),
        sa.Column("trades", sa.Integer(), nullable=True),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name="fk_trials_study"),
        sa.PrimaryKeyConstraint("study", "key", name="pk_trials"),
    )
    op.create_table(
        "trial_counts",
        sa.Column("venue", sa.String(), nullable=False),
        sa.Column("symbol", sa.String(), nullable=False),
        sa.Column("trials", sa.BigInteger(), nullable=False),
        sa.Column("rated", sa.BigInteger(), nullable=False),
        sa.Column("sharpe_sum", sa.Double(), nullable=False),
        sa.Column("sharpe_squares", sa.Double(), nullable=False),
        sa.Column("days_sum", sa.Double(), nullable=False),
        sa.Column("days_squares", sa.Double(), nullable=False),
        sa.Column("weighted_sum", sa.Double(), nullable=False),
        sa.Column("weighted_squares", sa.Double(), nullable=False),
        sa.Column("highs", sa.LargeBinary(), nullable=False),
        sa.Column("lows", sa.LargeBinary(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("venue", "symbol", name="pk_trial_counts"),
    )


def downgrade() -> None:
    op.drop_table("trial_counts")
    op.drop_table("trials")
    op.drop_table("studies")
