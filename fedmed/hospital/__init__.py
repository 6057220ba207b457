"""What a hospital runs: its shard, its plan, its ledger; and the guard that owns them."""
