"""Where archived objects live for good: a directory, S3, Google's or Azure's clouds, behind one interface."""
