"""``make demo``: a real three-node cluster loses its primary while the archive is behind, and the archive loses nothing."""
