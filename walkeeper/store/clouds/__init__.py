"""Stores in a bucket of Google's, or in a container of Azure's. Only ``driver`` loads the library, which is an extra."""
