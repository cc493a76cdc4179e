"""The pure core, in thousands of cases."""
