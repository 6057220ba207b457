"""What every part rests on: files that come from anywhere, and words on a terminal."""
