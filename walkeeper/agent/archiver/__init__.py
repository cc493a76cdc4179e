"""What runs while this node owns the record."""
