"""What a paper on a comparison needs: figures, tables, a Methods paragraph and its references."""
