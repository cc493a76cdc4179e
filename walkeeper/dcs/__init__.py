"""The record in Patroni's DCS: read, compare-and-set, and who leads."""
