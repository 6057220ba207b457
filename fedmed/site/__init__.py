"""What belongs to a deployed site: its own file, which no request can change."""
