"""A store in an S3 bucket, of AWS or compatible. ``keys`` is what a configuration says of it; ``driver`` loads the SDK."""
