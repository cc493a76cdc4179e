"""Where archived objects live for good: a directory, or S3 and compatibles, behind one small interface."""
