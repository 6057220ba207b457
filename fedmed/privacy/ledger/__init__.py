"""What was spent, durably: the ledger, its log, and the policy that decides what may be."""
