"""A store in an S3 bucket, of AWS or compatible. ``keys`` is what a configuration says of it; ``driver`` loads the SDK."""

from walkeeper.lib.later import load_when_used

# Botocore's waiters and paginators look into answers with it, and nobody here calls one.
load_when_used("jmespath")
