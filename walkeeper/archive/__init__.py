"""One cluster's archive in a store: what is written, what is read, what is there."""
