"""What a member does between Patroni's leader key and its promotion, where commits wait for the store."""
