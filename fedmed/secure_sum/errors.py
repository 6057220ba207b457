"""What a member or the collector refuses."""


class SumRefused(Exception):
    """A message that this protocol does not allow: one line that names it; nothing was unmasked."""


class NotMet(SumRefused):
    """A member that has no keys for this meeting (any more): the members must meet again."""
