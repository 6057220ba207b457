"""What a run guarantees, in figures, facts and sentences: the content of ``privacy.json``."""
